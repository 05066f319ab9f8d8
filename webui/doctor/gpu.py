"""The doctor's look at the graphics card: what it is, what it can do, whether torch can use it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from webui.doctor.finding import Finding
from webui.setup.chromium import quietly
from webui.setup.pins import installed

PAGE = "docs/troubleshooting.md"
# What needs which compute capability: CUDA's own tables, and bitsandbytes' for NF4 and INT8.
ABILITIES = ((6.0, "NF4"), (7.0, "fp16"), (7.5, "INT8"), (8.0, "bf16"), (8.9, "FP8"))
# The oldest driver (its first number) for a build of torch, by CUDA's major version; and the
# oldest compute capability that the build still has code for.
BUILDS = {12: (525, 5.0), 13: (580, 7.5)}
TORCH_SECONDS = 120  # the first import after a set-up reads two gigabytes from the disk
ASK_TORCH = """
import json, sys, torch
told = {"version": torch.__version__, "cuda": torch.version.cuda, "usable": False, "error": ""}
if sys.argv[1] == "card" and told["cuda"]:
    try:
        torch.cuda.init()
        told["usable"] = True
    except (RuntimeError, AssertionError) as error:
        told["error"] = str(error).splitlines()[0]
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Card:
    """One NVIDIA card. `capability` is CUDA's, such as 8.9; 0 where the driver does not tell."""

    name: str
    total_bytes: int
    capability: float
    driver: str

    @property
    def gib(self) -> int:
        """Its memory as its maker counts it."""
        return round(self.total_bytes / 2**30)


def gpu_findings() -> Iterator[Finding]:
    """The cards, what they can do, torch's build against them, GGUF."""
    cards, message = find_cards()
    for card in cards:
        yield Finding("card", f"{card.name}, {card.gib} GiB, driver {card.driver}")
        yield ability(card.capability)
    if not cards:
        yield Finding("card", message, "note")
    yield torch_finding(cards, ask_torch(bool(cards)))
    if installed("xllamacpp") is not None:
        yield Finding("GGUF", "this build runs GGUF on the CPU", "note",
                      f"A build for the card is described in {PAGE}." if cards else "")  # fmt: skip


def find_cards() -> tuple[list[Card], str]:
    """The NVIDIA cards by NVML, or by nvidia-smi where its Python module is missing.

    Without a card, the sentence says why.
    """
    try:
        from backends.card.nvml import Nvml
    except ImportError:
        return _ask_nvidia_smi()
    nvml = Nvml()
    gpus = nvml.read()
    driver = _text(nvml.ask("nvmlSystemGetDriverVersion")) if gpus else ""
    cards = []
    for gpu, (handle, _) in zip(gpus, nvml.devices, strict=True):
        pair = nvml.ask("nvmlDeviceGetCudaComputeCapability", handle) if handle else None
        capability = float(f"{pair[0]}.{pair[1]}") if pair else 0.0
        name = gpu.error or gpu.name or "unknown"
        cards.append(Card(name, gpu.total_bytes or 0, capability, driver))
    return cards, nvml.message


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _ask_nvidia_smi(
    run: Callable[[Sequence[str]], subprocess.CompletedProcess[str]] = quietly,
) -> tuple[list[Card], str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no NVIDIA GPU found: CPU mode"
    asked = "name,memory.total,compute_cap,driver_version"
    ran = run([program, f"--query-gpu={asked}", "--format=csv,noheader,nounits"])
    if ran.returncode:
        return [], f"the NVIDIA driver does not answer (nvidia-smi ended with {ran.returncode})"
    cards = []
    for line in ran.stdout.strip().splitlines():
        name, memory, capability, driver = (part.strip() for part in line.split(","))
        known = re.fullmatch(r"\d+\.\d+", capability)
        total = int(memory) * 2**20 if memory.isdecimal() else 0
        cards.append(Card(name, total, float(capability) if known else 0.0, driver))
    return cards, ""


def ability(capability: float) -> Finding:
    """What a card of this compute capability can do, and what it cannot."""
    if not capability:
        return Finding("can do", "not known: the driver does not tell", "note")
    able = [name for needed, name in ABILITIES if capability >= needed]
    unable = [f"no {name} (needs {needed})" for needed, name in ABILITIES if capability < needed]
    return Finding("can do", f"compute capability {capability}: {', '.join(able + unable)}")


def ask_torch(card: bool) -> dict[str, Any]:
    """What torch says of itself, asked in a process of its own.

    Empty where it is not installed; only `error` where it cannot be imported.
    """
    if installed("torch") is None:
        return {}
    ran = quietly([sys.executable, "-c", ASK_TORCH, "card" if card else "none"], TORCH_SECONDS)
    try:
        told = json.loads(ran.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        return {"error": last[:300]}
    return told if isinstance(told, dict) else {}


def torch_finding(cards: list[Card], told: dict[str, Any]) -> Finding:
    """Whether this torch can use these cards, and if not, why not."""
    if not told:
        return Finding("torch", "not installed", "note")
    if "version" not in told:
        return Finding("torch", f"cannot be imported: {told['error']}", "wrong",
                       f"{sys.executable} -m pip install --force-reinstall --no-deps "
                       f"torch=={installed('torch')}")  # fmt: skip
    cuda = str(told["cuda"] or "")
    built = f"{told['version']}, built " + (f"for CUDA {cuda}" if cuda else "without CUDA")
    if not cards or told["usable"]:
        return Finding("torch", built)
    if not cuda:
        return Finding("torch", f"{built}: the card is not used", "note",
                       f"See 'torch without CUDA' in {PAGE}.")  # fmt: skip
    return Finding("torch", f"{built}: {_why_unusable(cards, cuda, told['error'])}", "note",
                   f"See 'The card is not used' in {PAGE}.")  # fmt: skip


def _why_unusable(cards: list[Card], cuda: str, error: str) -> str:
    driver_needed, capability_needed = BUILDS.get(int(cuda.split(".")[0]), (0, 0.0))
    driver = cards[0].driver.split(".")[0]
    if driver.isdecimal() and int(driver) < driver_needed:
        return f"the driver {cards[0].driver} is too old, {driver_needed} or newer is needed"
    best = max(card.capability for card in cards)
    if 0 < best < capability_needed:
        return f"the card is too old for it (compute capability {best}, not {capability_needed})"
    return f"the card cannot be used ({error})"
