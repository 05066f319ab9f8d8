"""A file while it comes: what is there is hashed, what arrives is appended, the end is checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from backends.models.repo import RepoFile

PIECE = 4 * 2**20


class Partial:
    """The bytes of one file of the hub so far. Use it as a context."""

    def __init__(self, path: Path, file: RepoFile) -> None:
        self.path, self.file = path, file
        self.bytes = 0
        self._out = path.open("ab+", buffering=0)
        self._hash = _hasher(file)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._out.close()

    def take_up(self, told: Callable[[], None]) -> None:
        """Hash what an earlier process left; `told` is called for every 4 MiB."""
        if self._out.seek(0, os.SEEK_END) > self.file.bytes:  # nothing of ours
            self.restart()
        self._out.seek(0)
        while piece := self._out.read(PIECE):
            self._hash.update(piece)
            self.bytes += len(piece)
            told()

    def add(self, piece: bytes) -> None:
        """Raises OSError where the disk does not take it; what it took counts."""
        view = memoryview(piece)
        while view:  # without a buffer a write may take only a part
            taken = self._out.write(view) or 0
            self._hash.update(view[:taken])
            self.bytes += taken
            view = view[taken:]

    def restart(self) -> None:
        """Forget what is there."""
        self._out.truncate(0)
        self._out.seek(0)
        self._hash, self.bytes = _hasher(self.file), 0

    def finish(self) -> bool:
        """Whether it is what the hub said, now safe on the disk."""
        os.fsync(self._out.fileno())
        return self.bytes == self.file.bytes and self._hash.hexdigest() == self.file.etag


def _hasher(file: RepoFile) -> Any:
    """Large files have a sha256; small ones their id in git, which is a SHA-1 with a head."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
