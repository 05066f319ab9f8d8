"""A model's tensors moved from the GPU to RAM and back, every one of them at its place again.

What is moved are the storages: the tensors, their views, tied weights and the quantisation's own
tables go on referring to them, so nothing in the model has to be set anew.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from backends.base import Refused

# Bytes of a piece of RAM: torch makes powers of two of what it locks, and keeps the difference.
LARGEST, SMALLEST = 2**30, 2**22
NO_RAM = Refused(
    "There is not enough memory in the computer to park the model.",
    "It stays on the GPU. Unload it, or close other programs.",
)


class Parked:
    """Everything under `roots` that lies on `device`, in RAM from now on; `bytes` of it.

    Locked in memory where the system allows that, since a GPU fetches it two to three times as fast
    then. Raises Refused, with nothing moved, where RAM is short.
    """

    def __init__(self, *roots: Any, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.storages = [s for s in _storages(roots, self.device.type) if s.resizable()]
        self.sizes = [storage.nbytes() for storage in self.storages]
        self.bytes = sum(self.sizes)
        try:
            self.pieces = _allocate(self.bytes, lock=self.device.type == "cuda")
        except (RuntimeError, MemoryError):
            raise NO_RAM from None
        for storage, (start, size) in zip(self.storages, self._places(), strict=True):
            self._copy(storage, start, size, back=False)
        self._wait()
        for storage in self.storages:
            storage.resize_(0)

    def restore(self) -> None:
        """Put everything back. Raises Refused, with all of it parked still, where the GPU is
        short."""
        import torch

        try:
            for storage, (start, size) in zip(self.storages, self._places(), strict=True):
                storage.resize_(size)
                self._copy(storage, start, size, back=True)
        except torch.OutOfMemoryError as error:
            self._wait()
            for storage in self.storages:
                storage.resize_(0)
            raise Refused(
                "The GPU has not enough memory left to bring the model back.",
                "Close other programs that use the GPU, or unload another model.",
                str(error),
            ) from None
        self._wait()
        self.storages, self.pieces = [], []

    def _places(self) -> Iterator[tuple[int, int]]:
        at = 0
        for size in self.sizes:
            yield at, size
            at += size

    def _copy(self, storage: Any, start: int, size: int, back: bool) -> None:
        """Between a storage and the row of pieces, at byte `start` of that."""
        import torch

        there = torch.empty(0, dtype=torch.uint8, device=self.device).set_(storage)
        done = at = 0
        for piece in self.pieces:
            if at + len(piece) > start + done and done < size:
                offset = start + done - at
                count = min(size - done, len(piece) - offset)
                here, part = piece[offset : offset + count], there[done : done + count]
                (part if back else here).copy_(here if back else part, non_blocking=True)
                done += count
            at += len(piece)

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda" and self.storages:
            torch.cuda.synchronize()


def _allocate(size: int, lock: bool) -> list[Any]:
    """Pieces of RAM of `size` bytes together, powers of two but for the last where not locked."""
    import torch

    pieces: list[Any] = []
    left = size
    while left > 0:
        length = LARGEST
        while length > left and length > SMALLEST:
            length //= 2
        try:
            piece = torch.empty(length, dtype=torch.uint8, pin_memory=lock)
        except RuntimeError:  # the limit of locked memory: slower, but parked
            if not lock:
                raise
            lock = False
            continue
        pieces.append(piece)
        left -= length
    return pieces


def _storages(roots: tuple[Any, ...], kind: str) -> list[Any]:
    """The storages of all tensors that can be reached from `roots`, each once, on such a device."""
    import torch

    nothing = types.FunctionType | types.MethodType | types.ModuleType | type  # lead everywhere
    seen: set[int] = set()
    found: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            if thing.device.type == kind and thing.numel():
                storage = thing.untyped_storage()
                found.setdefault(storage.data_ptr(), storage)
            waiting.extend(vars(thing).values() if hasattr(thing, "__dict__") else ())
        elif isinstance(thing, dict):
            waiting.extend(thing.values())
        elif isinstance(thing, list | tuple | set):
            waiting.extend(thing)
        elif hasattr(thing, "__dict__") and not isinstance(thing, nothing):
            waiting.extend(vars(thing).values())
    return list(found.values())
