"""What a foreign recipe says, checked as it is taken: types, lengths, numbers that are numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

PROMPT_LENGTH = 20_000  # characters
TEXT_LENGTH = 500
MOST_UNKNOWN = 100
MOST_ADAPTERS = 50
LARGEST = 2**63  # of a number; seeds have up to 2**64 in ComfyUI, and are told as unknown
INTS = ("steps", "width", "height", "seed", "variation_seed", "clip_skip")
FLOATS = ("guidance", "strength", "variation", "enlarge", "enlarge_strength")
PROMPTS = ("prompt", "negative")
TEXTS = ("scheduler", "model", "model_title", "family", "kind")
LORA = re.compile(r"<(?:lora|lyco):([^:<>]{1,200})(?::([^:<>]{1,20}))?(?::[^<>]{0,100})?>")
# Samplers as each program calls them, and their usual names (AUTOMATIC1111's).
USUAL = {
    "euler": "Euler", "k_euler": "Euler", "euler_a": "Euler a", "euler_ancestral": "Euler a",
    "k_euler_a": "Euler a", "euler a": "Euler a", "heun": "Heun", "k_heun": "Heun",
    "lms": "LMS", "k_lms": "LMS", "dpm_2": "DPM2", "k_dpm_2": "DPM2", "kdpm_2": "DPM2",
    "dpm2": "DPM2", "dpm_2_ancestral": "DPM2 a", "k_dpm_2_a": "DPM2 a", "kdpm_2_a": "DPM2 a",
    "dpm2 a": "DPM2 a", "dpmpp_2m": "DPM++ 2M", "dpm++ 2m": "DPM++ 2M",
    "k_dpmpp_2m": "DPM++ 2M", "dpmpp_sde": "DPM++ SDE", "dpmpp_sde_gpu": "DPM++ SDE",
    "dpm++ sde": "DPM++ SDE", "dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpm++ 2m sde": "DPM++ 2M SDE", "dpmpp_2s": "DPM++ 2S", "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_3m_sde": "DPM++ 3M SDE", "dpmpp_3m_sde_gpu": "DPM++ 3M SDE", "ddim": "DDIM",
    "ddpm": "DDPM", "uni_pc": "UniPC", "uni_pc_bh2": "UniPC", "unipc": "UniPC", "plms": "PNDM",
    "pndm": "PNDM", "deis": "DEIS", "lcm": "LCM", "tcd": "TCD",
}  # fmt: skip
PLAIN = ("", "automatic", "normal", "simple", "uniform", "default")  # no schedule of their own


class Told:
    """Collects a recipe. What does not fit its setting goes to `unknown`, as it was."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.said: dict[str, Any] = {}
        self.unknown: dict[str, Any] = {}

    def put(self, name: str, value: Any, called: str = "") -> None:
        """One setting, by our name; `called` is what the other program calls it."""
        if value is None or value == "" or isinstance(value, list | dict | bool):
            if value not in (None, ""):
                self.other(called or name, value)
        elif name in PROMPTS:
            self.said[name] = as_text(value, PROMPT_LENGTH)
        elif name in TEXTS:
            self.said[name] = as_text(value, TEXT_LENGTH)
        elif (number := as_number(value, whole=name in INTS)) is not None:
            self.said[name] = number
        else:
            self.other(called or name, value)

    def other(self, name: str, value: Any) -> None:
        """What Werkbank has no setting for."""
        if value in (None, "", [], {}) or len(self.unknown) >= MOST_UNKNOWN:
            return
        if isinstance(value, str | int | float | bool):
            plain = as_text(value, TEXT_LENGTH) if isinstance(value, str) else value
            huge = isinstance(value, int) and abs(value) > 2**64
            odd = isinstance(value, float) and not math.isfinite(value)
            self.unknown[as_text(name, 80)] = as_text(value, 80) if huge or odd else plain
        else:
            self.unknown[as_text(name, 80)] = as_text(_json(value), TEXT_LENGTH)

    def sampler(self, name: Any, schedule: Any = "") -> None:
        """A sampler and its schedule of noise, which we call a scheduler, by their usual name."""
        if isinstance(name, str) and name.strip():
            self.said["scheduler"] = usual(name, schedule if isinstance(schedule, str) else "")

    def adapter(self, name: Any, weight: Any = 1.0) -> None:
        """By its file's name: there is no reference yet. Fooocus names each twice: once is kept."""
        number = as_number(weight)
        adapters = self.said.setdefault("adapters", [])
        called = bare(name) if isinstance(name, str) else ""
        if called and len(adapters) < MOST_ADAPTERS and called not in (a["name"] for a in adapters):
            adapters.append(
                {"ref": "", "name": called, "weight": 1.0 if number is None else number}
            )

    def loras_of_prompt(self) -> None:
        """<lora:name:0.8> in the prompt is an adapter, and no words."""
        for found in LORA.finditer(self.said.get("prompt", "")):
            self.adapter(found[1], found[2] or 1.0)
        if "prompt" in self.said:
            text = LORA.sub("", self.said["prompt"])
            text = re.sub(r" {1,10}\n", "\n", re.sub(r" {2,10}", " ", text))
            self.said["prompt"] = text.strip(" ,\n")

    def made(self) -> dict[str, Any]:
        if not self.said.get("adapters"):
            self.said.pop("adapters", None)
        return {**self.said, "source": self.source, "unknown": self.unknown}


def usual(name: str, schedule: str = "") -> str:
    """A sampler's usual name: "dpmpp_2m" with "karras" is "DPM++ 2M Karras". An unknown one stays
    as it is called."""
    plain = " ".join(name.split())[:80]
    low, schedule = plain.casefold(), schedule.strip().casefold()
    for ending in (" karras", "_karras", "_k"):
        if low.endswith(ending) and low.removesuffix(ending) in USUAL:
            low, schedule = low.removesuffix(ending), "karras"
            plain = plain[: len(low)]
    found = USUAL.get(low, plain)
    if schedule in PLAIN or schedule in found.casefold():
        return found
    return f"{found} {schedule.replace('_', ' ').title()[:40]}"


def as_number(value: Any, *, whole: bool = False) -> int | float | None:
    """A number, also where it is written as text; None for what is none, or beyond all use."""
    if isinstance(value, str):
        try:
            value = float(value) if re.search(r"[.eE]", value) else int(value.strip()[:40])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or abs(value) >= LARGEST or (whole and value != int(value)):
        return None
    return int(value) if whole else value


def as_text(value: Any, most: int) -> str:
    """Cut, and such as every file and page can hold."""
    text = value if isinstance(value, str) else str(value)
    return text[:most].replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def bare(name: str) -> str:
    """A file's name without folders and ending."""
    name = re.split(r"[\\/]", as_text(name, TEXT_LENGTH).strip())[-1]
    return re.sub(r"\.(safetensors|ckpt|pt|pth|bin|gguf)$", "", name)


def parsed(text: Any) -> Any:
    """JSON, or None."""
    if not isinstance(text, str | bytes):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return "…"
