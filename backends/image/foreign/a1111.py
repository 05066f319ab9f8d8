"""AUTOMATIC1111's `parameters`, as Forge, SD.Next, Fooocus and many others write it, too.

A prompt, "Negative prompt: …", and as the last line "Steps: 20, Sampler: …": the layout of
`parse_generation_parameters` in its `modules/infotext_utils.py`.
"""

from __future__ import annotations

import re
from typing import Any

from backends.image.foreign.told import Told, parsed

# Bounded, so that no line takes more than a few times its length.
SETTING = re.compile(r'(\w[\w \-/]{0,60}):\s{0,20}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
LINE = 50_000  # characters of the last line
NEGATIVE = "Negative prompt:"
SIZE = re.compile(r"(\d{1,6})\s{0,5}x\s{0,5}(\d{1,6})")
OURS = {
    "Steps": "steps", "CFG scale": "guidance", "Seed": "seed", "Variation seed": "variation_seed",
    "Variation seed strength": "variation", "Hires upscale": "enlarge",
}  # fmt: skip
TAKEN = (*OURS, "Sampler", "Schedule type", "Size", "Model", "Denoising strength", "Clip skip")


def read(text: str) -> dict[str, Any] | None:
    """The recipe; None where no line of settings is in it."""
    *lines, last = text.strip().split("\n")
    settings = _settings(last)
    if len(settings) < 3:
        return None
    told = Told("a1111")
    prompt, negative = _prompts(lines)
    told.put("prompt", prompt)
    told.put("negative", negative)
    told.loras_of_prompt()
    for name, ours in OURS.items():
        told.put(ours, settings.get(name), name)
    told.sampler(settings.get("Sampler"), settings.get("Schedule type", ""))
    told.put("model_title", settings.get("Model"))
    if size := SIZE.fullmatch(settings.get("Size", "")):
        told.put("width", size[1])
        told.put("height", size[2])
    change = "enlarge_strength" if "enlarge" in told.said else "strength"
    told.put(change, settings.get("Denoising strength"), "Denoising strength")
    told.put("clip_skip", settings.get("Clip skip"), "Clip skip")
    if told.said.get("clip_skip", 0) > 0:
        told.said["clip_skip"] -= 1  # there 1 is the last layer: none left out
    for name, value in settings.items():
        if name not in TAKEN:
            told.other(name, value)
    return told.made()


def _prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    now = prompt
    for line in lines:
        line = line.strip()
        if line.startswith(NEGATIVE):
            now, line = negative, line[len(NEGATIVE) :].strip()
        now.append(line)
    return "\n".join(prompt).strip(), "\n".join(negative).strip()


def _settings(line: str) -> dict[str, str]:
    found = {}
    for name, value in SETTING.findall(line[:LINE]):
        value = value.strip()
        if value.startswith('"') and isinstance(plain := parsed(value), str):
            value = plain
        found[name.strip()] = value
    return found
