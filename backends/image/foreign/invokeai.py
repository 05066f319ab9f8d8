"""InvokeAI's metadata: `invokeai_metadata` (since 3), `sd-metadata` (2), `Dream` (1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from backends.image.foreign.told import PROMPT_LENGTH, Told, bare, mapping, parsed

OURS = {
    "positive_prompt": "prompt", "negative_prompt": "negative", "width": "width",
    "height": "height", "seed": "seed", "steps": "steps", "cfg_scale": "guidance",
    "guidance": "guidance", "strength": "strength", "clip_skip": "clip_skip",
}  # fmt: skip
DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "guidance", "f": "strength"}
ARGUMENT = re.compile(r"\s-(\w{1,20})\s{0,5}([^\s\-][^\s]{0,80})")
NEGATIVE = re.compile(r"\[([^\[\]]{0,5000})\]")


def read(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """The recipe; None where no text of InvokeAI's is among them."""
    if data := mapping(parsed(texts.get("invokeai_metadata"))):
        return _newest(data)
    data = mapping(parsed(texts.get("sd-metadata")))
    if image := mapping(data.get("image")):
        return _second(data, image)
    if "Dream" in texts:
        return _dream(texts["Dream"])
    return None


def _newest(data: Mapping[str, Any]) -> dict[str, Any]:
    told = Told("invokeai")
    for name, value in data.items():
        if name in OURS:
            told.put(OURS[name], value, name)
        elif name == "scheduler":
            told.sampler(value)
        elif name == "model":
            told.put("model_title", bare(_name(value)))
        elif name == "loras" and isinstance(value, list):
            for one in map(mapping, value):
                told.adapter(_name(one.get("model") or one.get("lora")), one.get("weight", 1.0))
        else:
            told.other(name, value)
    return told.made()


def _name(model: Any) -> str:
    """Of a model: `name` since 4, `model_name` before."""
    said = mapping(model)
    return str(said.get("name") or said.get("model_name") or "")


def _second(data: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    told = Told("invokeai")
    prompts = image.get("prompt")
    listed = prompts if isinstance(prompts, list) else [{"prompt": prompts}]
    _split(told, " ".join(str(mapping(one).get("prompt") or "") for one in listed[:50]))
    for name, value in image.items():
        if name in OURS:
            told.put(OURS[name], value, name)
        elif name == "sampler":
            told.sampler(value)
        elif name != "prompt":
            told.other(name, value)
    told.put("model_title", data.get("model_weights"))
    told.other("app_version", data.get("app_version"))
    return told.made()


def _dream(text: str) -> dict[str, Any] | None:
    """`"a fox [blurry]" -s 50 -S 42 -W 512 -H 512 -C 7.5 -A k_lms`"""
    text = text[: PROMPT_LENGTH + 2000]
    end = text.rfind('"')
    if not text.startswith('"') or end < 1:
        return None
    told = Told("invokeai")
    _split(told, text[1:end])
    for name, value in ARGUMENT.findall(text[end + 1 :]):
        if name == "A":
            told.sampler(value)
        elif name in DREAM:
            told.put(DREAM[name], value, name)
        else:
            told.other(name, value)
    return told.made()


def _split(told: Told, prompt: str) -> None:
    """Words in square brackets were the negative prompt."""
    prompt = prompt[:PROMPT_LENGTH]
    told.put("negative", ", ".join(NEGATIVE.findall(prompt)))
    told.put("prompt", " ".join(NEGATIVE.sub(" ", prompt).split()))
