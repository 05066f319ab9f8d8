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


def as_in_the_file(options: Any, size: Size, device: str) -> Weights:
    """For a backend that loads a file as it is."""
    return Weights(size.file_bytes, size.file_bytes)
