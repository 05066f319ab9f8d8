"""Fooocus' own scheme: `parameters` as JSON beside `fooocus_scheme` (`modules/meta_parser.py`)."""

from __future__ import annotations

import re
from typing import Any

from backends.image.foreign.told import Told, bare, mapping, parsed

OURS = {
    "prompt": "prompt", "negative_prompt": "negative", "steps": "steps", "seed": "seed",
    "guidance_scale": "guidance", "clip_skip": "clip_skip",
}  # fmt: skip
TAKEN = ("full_prompt", "full_negative_prompt", "sampler", "scheduler", "metadata_scheme")
SIZE = re.compile(r"\(?\s{0,5}(\d{1,6})\s{0,5}[,x×]\s{0,5}(\d{1,6})\s{0,5}\)?")
LORA = re.compile(r"lora_combined_\d{1,3}")


def read(text: str) -> dict[str, Any] | None:
    """The recipe; None for what is not Fooocus'."""
    data = mapping(parsed(text))
    if "base_model" not in data or "prompt" not in data:
        return None
    told = Told("fooocus")
    told.sampler(data.get("sampler"), data.get("scheduler"))
    for name, value in data.items():
        if name in OURS:
            told.put(OURS[name], value, name)
        elif name == "base_model":
            told.put("model_title", bare(str(value)))
        elif name == "resolution" and (size := SIZE.fullmatch(str(value)[:40])):
            told.put("width", size[1])
            told.put("height", size[2])
        elif name == "loras" and isinstance(value, list):
            for one in value:
                if isinstance(one, list) and len(one) > 1:
                    told.adapter(one[0], one[1])
        elif LORA.fullmatch(name) and isinstance(value, str):
            called, _, weight = value.rpartition(" : ")
            told.adapter(called, weight)
        elif name not in TAKEN:
            told.other(name, value)
    if told.said.get("clip_skip", 0) > 0:
        told.said["clip_skip"] -= 1  # as in AUTOMATIC1111, 1 is the last layer
    return told.made()
