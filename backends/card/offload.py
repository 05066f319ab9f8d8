"""Part of a model in the computer's memory: how much of the GPU it needs then, and how slow it is.

Pure arithmetic. A token is written by reading every weight once, so the time for one is the bytes
on each side divided by what moves them. The figures are estimates for one consumer machine:

- GPU 400 GB/s: 80 % of the 504 GB/s in NVIDIA's data sheet of the RTX 4070 Ti.
- RAM 40 GB/s: 80 % of two channels of DDR4-3200 (JEDEC, 51.2 GB/s). llama.cpp computes there.
- PCIe 12 GB/s: what copies out of ordinary memory reach of the 31.5 GB/s that the PCI-SIG gives for
  4.0 x16. transformers moves the weights to the GPU for every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GPU_BANDWIDTH = 400e9  # bytes/s
RAM_BANDWIDTH = 40e9
PCIE_BANDWIDTH = 12e9
SLOWEST = 0.2  # tokens/s: below that nobody waits, so nothing is proposed


@dataclass(frozen=True)
class Size:
    """A model before it is loaded. `layers` is 0 where it does not say."""

    file_bytes: int
    parameters: int = 0
    layers: int = 0


@dataclass(frozen=True)
class Weights:
    """What a model's weights take when they are loaded.

    gpu_bytes   of the whole model, were all of it on the GPU
    ram_bytes   of the whole model, were all of it in the computer's memory
    bandwidth   bytes/s at which the part in memory is gone through for each token
    gpu_layers  how many layers were asked for on the GPU, -1 all
    """

    gpu_bytes: int
    ram_bytes: int
    bandwidth: float = RAM_BANDWIDTH
    gpu_layers: int = -1


@dataclass(frozen=True)
class Proposal:
    """Load it with so many of its layers on the GPU, and expect so many tokens/s."""

    gpu_layers: int
    layers: int
    tokens_per_second: float

    def __str__(self) -> str:
        speed = self.tokens_per_second
        shown = f"{speed:.0f}" if speed >= 2 else f"{speed:.1f}"
        return (
            f"it fits with {self.gpu_layers} of its {self.layers} layers on the GPU (Layers on the "
            f"GPU, under How to load it), at about {shown} tokens/s"
        )


def share(gpu_layers: int, layers: int) -> float:
    """The part of the weights that lies on the GPU: embeddings and head count as one layer more.

    They stay there whatever `gpu_layers` says. -1 means all; so does a model that does not tell.
    """
    if gpu_layers < 0 or layers <= 0 or gpu_layers >= layers:
        return 1.0
    return (gpu_layers + 1) / (layers + 1)


def seconds_for_a_token(weights: Weights, on_gpu: float) -> float:
    """Time to go through all weights once, `on_gpu` of them (0 to 1) on the GPU."""
    gpu = weights.gpu_bytes * on_gpu / GPU_BANDWIDTH
    return gpu + weights.ram_bytes * (1 - on_gpu) / weights.bandwidth


def proposal(
    weights: Weights, layers: int, free_bytes: int, ram_bytes: int, overhead: float = 1.2
) -> Proposal | None:
    """The most layers that fit into `free_bytes` of the GPU, the others into `ram_bytes`.

    overhead: bytes held for each byte of weights, for the cache and what is computed.
    None where all of them fit, where not even one does, where the rest does not fit into the
    computer's memory, and where it would be too slow for anybody.
    """
    for count in range(layers - 1, 0, -1):
        on_gpu = share(count, layers)
        if weights.gpu_bytes * on_gpu * overhead > free_bytes:
            continue
        speed = 1 / seconds_for_a_token(weights, on_gpu)
        if weights.ram_bytes * (1 - on_gpu) > ram_bytes or speed < SLOWEST:
            return None
        return Proposal(count, layers, speed)
    return None


def as_in_the_file(options: Any, size: Size, device: str) -> Weights:
    """For a backend that loads a file as it is."""
    return Weights(size.file_bytes, size.file_bytes)
