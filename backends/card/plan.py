"""How a model is to be loaded, as far as memory depends on it. What a backend's card says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Engine = Literal["transformers", "llama_cpp", "diffusers", "speech"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load, its automatic choices made.

    engine        the library that opens it, which decides what is kept how
    quantisation  fp32, bf16, fp16, nf4, int8; "file" where the file is used as it is
    device        "cpu" or "cuda:N"
    context       tokens that the cache is to hold
    chunk         prompt tokens that are read at once
    gpu_layers    layers on the GPU, -1 all; the others wait in RAM
    offload       of an image model: none, words, model or group; auto: as much as is needed
    """

    engine: Engine
    quantisation: str = "file"
    device: str = "cpu"
    context: int = 8192
    chunk: int = 512
    gpu_layers: int = -1
    offload: str = "auto"

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


def no_plan(options: Any, device: str, trained: int) -> LoadPlan | None:
    """For a backend whose memory nothing foretells."""
    return None
