"""A model's tensors moved from the GPU to RAM and back, every one of them at its place again.

What is moved are the storages: the tensors, their views, tied weights and the quantisation's own
tables go on referring to them, so nothing in the model has to be set anew.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import psutil

from backends.base import Refused

PIECE = 2**28  # bytes of RAM that are taken at once: while one is made the last one is filled
SPARE_BYTES = 2**29  # of RAM that stay free beside it
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
        self.pieces: list[Any] = []
        self._locks = self.device.type == "cuda"
        self._locked: list[Any] = []
        if psutil.virtual_memory().available < self.bytes + SPARE_BYTES:
            raise NO_RAM
        try:
            self._copy_all(back=False)
        except (RuntimeError, MemoryError):
            self._wait()
            self._release()
            raise NO_RAM from None
        for storage in self.storages:
            storage.resize_(0)

    def restore(self) -> None:
        """Put everything back. Raises Refused, with all of it parked still, where the GPU is
        short."""
        import torch

        try:
            for storage, size in zip(self.storages, self.sizes, strict=True):
                storage.resize_(size)
            self._copy_all(back=True)
        except torch.OutOfMemoryError as error:
            self._wait()
            for storage in self.storages:
                storage.resize_(0)
            raise Refused(
                "The GPU has not enough memory left to bring the model back.",
                "Close other programs that use the GPU, or unload another model.",
                str(error),
            ) from None
        self._release()
        self.storages = []

    def _copy_all(self, back: bool) -> None:
        """Between the storages, one after the other, and the row of pieces."""
        import torch

        at = 0  # byte of the row
        for storage in self.storages:
            there = torch.empty(0, dtype=torch.uint8, device=self.device).set_(storage)
            done = 0
            while done < len(there):
                index, offset = divmod(at, PIECE)
                if index == len(self.pieces):
                    self.pieces.append(self._piece(min(PIECE, self.bytes - at)))
                count = min(len(there) - done, PIECE - offset)
                here = self.pieces[index][offset : offset + count]
                part = there[done : done + count]
                (part if back else here).copy_(here if back else part, non_blocking=True)
                done, at = done + count, at + count
        self._wait()

    def _piece(self, size: int) -> Any:
        """So many bytes of RAM, locked where that goes.

        Touched by all threads first, which is what takes the time, and then locked: torch's own
        locked memory is touched by one, and in powers of two.
        """
        import torch

        piece = torch.empty(size, dtype=torch.uint8).fill_(0)
        if self._locks:
            failed = int(torch.cuda.cudart().cudaHostRegister(piece.data_ptr(), size, 0))
            if not failed:
                self._locked.append(piece)
            else:  # the limit of locked memory: slower from here on, but parked
                self._locks = False
                with contextlib.suppress(RuntimeError):  # CUDA tells the error to the next kernel
                    torch.zeros(1, device=self.device)
        return piece

    def _release(self) -> None:
        import torch

        for piece in self._locked:
            torch.cuda.cudart().cudaHostUnregister(piece.data_ptr())
        self._locked, self.pieces = [], []

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda" and self.storages:
            torch.cuda.synchronize()


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
