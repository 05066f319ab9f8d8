"""How an image model is loaded, and what that means for its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from backends.base import Refused
from backends.card.offload import PCIE_BANDWIDTH, Size, Weights
from backends.card.plan import LoadPlan
from backends.image.families import Family
from backends.params import Params, setting

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "nf4": 0.6}  # of a weight; text encoders stay


@dataclass(frozen=True)
class ImageOptions(Params):
    """How an image model is loaded."""

    quantisation: str = setting(
        "auto", "Quantisation",
        choices=(("auto", "Automatic"), ("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32"),
                 ("nf4", "NF4: 4 bits (transformers only)")),
        help="How exactly the weights are kept. Automatic: 16 bits on a GPU, NF4 there for FLUX "
        "and Stable Diffusion 3, 32 bits on a CPU.",
    )  # fmt: skip
    device: str = setting(
        "auto", "Device", choices=(("auto", "Automatic"), ("cuda", "GPU"), ("cpu", "CPU"))
    )
    offload: str = setting(
        "auto", "What leaves the GPU", advanced=True,
        choices=(("auto", "Automatic: as much as is needed"), ("none", "Nothing"),
                 ("words", "The text encoder, but while it reads"),
                 ("model", "Text encoder and network by turns"),
                 ("group", "The network's blocks, one after the other")),
        help="With less on the GPU at once larger models and pictures fit, and each takes longer.",
    )  # fmt: skip
    tiling: str = setting(
        "auto", "VAE in tiles", advanced=True,
        choices=(("auto", "Automatic: for large pictures"), ("on", "Always"), ("off", "Never")),
        help="The picture is decoded piece by piece, which takes less memory.",
    )  # fmt: skip


def choose(options: ImageOptions, has_gpu: bool, family: Family | None) -> tuple[str, str]:
    """Device and quantisation, with the automatic ones decided. Raises Refused.

    family: None where it is not known, which counts as one without NF4.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        raise Refused(
            "PyTorch finds no NVIDIA GPU on this computer.",
            "Choose the CPU, or run `python launch.py doctor` to see what is missing.",
        )
    quantisation = options.quantisation
    if quantisation == "auto":
        automatic = family.auto if family else "fp16"
        quantisation = automatic if device == "cuda" else "fp32"
    if quantisation == "nf4" and device == "cpu":
        raise Refused(
            "NF4 needs a GPU for image models.", "Choose fp32 or bf16, or load it on a GPU."
        )
    if quantisation == "nf4" and family and not family.quantised:
        raise Refused(
            f"NF4 packs transformers, and {family.title} is a convolutional network.",
            "Choose fp16; where the GPU is too small for that, parts of it wait in RAM.",
        )
    return device, quantisation


def weights_of(options: ImageOptions, size: Size, device: str) -> Weights:
    """What the weights will take; with NF4 a text encoder may stay in 16 bits."""
    quantisation = _quantisation(options, device)
    count = size.parameters or size.file_bytes // 2
    held = int(count * BYTES[quantisation])
    return Weights(held, int(count * max(2.0, BYTES[quantisation])), PCIE_BANDWIDTH)


def plan_of(options: ImageOptions, device: str, trained: int) -> LoadPlan:
    """The load that these options mean, for a prediction of its memory."""
    return LoadPlan("diffusers", _quantisation(options, device), device, offload=options.offload)


def _quantisation(options: ImageOptions, device: str) -> str:
    try:
        return choose(replace(options, device="auto"), device != "cpu", None)[1]
    except Refused:  # said again, and better, by the load
        return "fp32"


def less_of(options: ImageOptions, on_gpu: bool) -> dict[str, tuple[Any, str]]:
    """What to choose for what is automatic where memory has run out."""
    if on_gpu:
        less = "group", "the network's blocks on the GPU one after the other"
        return {"offload": less} if options.offload == "auto" else {}
    return {"quantisation": ("bf16", "16-bit weights")} if options.quantisation == "auto" else {}
