"""What every kind of training does where memory runs out, or where its process is to be gone in
seconds. Reading this file imports nothing heavy."""

from __future__ import annotations

import gc

# As PyTorch, CUDA's libraries and llama.cpp say it.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A step did not fit. `step` is the last one that was done.

    torn: whether the weights may hold a part of the next one; they are then good for nothing.
    """

    def __init__(self, step: int, detail: str, torn: bool = False) -> None:
        super().__init__(detail)
        self.step, self.torn = step, torn


class Hurried(BaseException):
    """The process is to be gone in seconds, so a step or a validation was given up."""


def is_out_of_memory(text: str) -> bool:
    """Whether an error's words are those of memory that ran out."""
    return any(sign in text for sign in OUT_OF_MEMORY)


def is_short(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or in RAM, in whatever words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_out_of_memory(str(error))


def free_memory() -> None:
    """Give back what nothing holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_bytes() -> float:
    """What this process holds: on the GPU where it trains there, else in RAM."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved())
    import psutil

    return float(psutil.Process().memory_info().rss)
