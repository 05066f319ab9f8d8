"""The hub's cache on the disk, written as its own library writes it, so that others find it.

models--owner--name/blobs/<etag>                  a file's bytes; <etag>.incomplete while it comes
models--owner--name/snapshots/<commit>/<path>     a link to its blob; where there are no links
                                                  (Windows), the file itself
models--owner--name/refs/<revision>               the commit, written when all files are there

That of a dataset is called datasets--owner--name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backends.models.repo import RepoFile, What

PARTIAL = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\.incomplete")


class RepoStore:
    """One model or dataset in the cache. Names of files were checked by `choices_of`."""

    def __init__(self, cache: Path, name: str, what: What = "model") -> None:
        self.cache = cache
        self.folder = cache / f"{what}s--{name.replace('/', '--')}"

    def blob(self, file: RepoFile) -> Path:
        return self.folder / "blobs" / file.etag

    def partial(self, file: RepoFile) -> Path:
        return self.folder / "blobs" / f"{file.etag}.incomplete"

    def pointer(self, commit: str, file: RepoFile) -> Path:
        return self.folder.joinpath("snapshots", commit, *file.path.split("/"))

    def has(self, commit: str, file: RepoFile) -> bool:
        """Whether the file is there, whole."""
        return _size(self.pointer(commit, file)) == file.bytes

    def has_blob(self, file: RepoFile) -> bool:
        """Whether its bytes are there, perhaps from another version or another program."""
        return _size(self.blob(file)) == file.bytes

    def has_others(self, commit: str, files: Iterable[RepoFile]) -> bool:
        """Whether that version has files here besides these: another form of the model, or what a
        program took by the commit, so that no branch leads to it."""
        mine = {self.pointer(commit, file) for file in files}
        return any(path not in mine for path in _files(self.folder / "snapshots" / commit))

    def have(self, commit: str, file: RepoFile) -> int:
        """How many bytes of it are there: all, what was begun, or none."""
        if self.has(commit, file) or self.has_blob(file):
            return file.bytes
        return min(max(_size(self.partial(file)), 0), file.bytes)

    def keep(self, file: RepoFile) -> None:
        """The partial file was checked: it is the blob from now on."""
        os.replace(self.partial(file), self.blob(file))

    def settle(self, commit: str, file: RepoFile) -> None:
        """The snapshot gets its link to the blob. What is left of a partial file is not needed."""
        blob, pointer = self.blob(file), self.pointer(commit, file)
        self.partial(file).unlink(missing_ok=True)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # Windows without the right to make links
            os.replace(blob, pointer)

    def write_ref(self, revision: str, commit: str) -> None:
        if revision != commit:
            file = self.folder / "refs" / revision
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_text(commit)
            os.replace(partial, file)

    def drop_unfinished(self, commit: str) -> int:
        """Remove what a download left that did not come to its end; the bytes that came back.

        Its files at `commit` go too, unless a version that is whole has them.
        """
        freed = 0
        for path in self.folder.glob("blobs/*.incomplete"):
            if PARTIAL.fullmatch(path.name):  # others are another program's
                freed += max(_size(path), 0)
                path.unlink(missing_ok=True)
        if commit and commit not in self._commits():
            freed += self.remove_snapshot(commit)
        for folder in ("blobs", "snapshots", "refs", "."):
            with suppress(OSError):  # one that is not empty, or not there
                (self.folder / folder).rmdir()
        return freed

    def remove_snapshot(self, commit: str) -> int:
        """Remove one version, and the blobs that no other has; the bytes that came back."""
        snapshot = self.folder / "snapshots" / commit
        if snapshot.is_symlink() or Path(commit).name != commit or not snapshot.is_dir():
            return 0
        freed = sum(f.lstat().st_size for f in _files(snapshot) if not f.is_symlink())
        mine = self._blobs_of(snapshot)
        shutil.rmtree(snapshot)
        for other in self.folder.glob("snapshots/*"):
            mine -= self._blobs_of(other)
        for blob in mine:
            freed += 0 if blob.is_symlink() else max(_size(blob), 0)
            blob.unlink(missing_ok=True)
        return freed

    def _commits(self) -> set[str]:
        """Those that a branch or a tag leads to."""
        refs = (path for path in (self.folder / "refs").rglob("*") if path.is_file())
        return {path.read_text(errors="replace").strip() for path in refs}

    def _blobs_of(self, snapshot: Path) -> set[Path]:
        """The model's own blobs that a snapshot's links lead to, in one step."""
        blobs = self.folder / "blobs"
        found = set()
        for path in _files(snapshot):
            if path.is_symlink():
                to = Path(os.path.normpath(path.parent / os.readlink(path)))
                if to.parent == blobs:
                    found.add(to)
        return found

    @contextmanager
    def alone(self, file: RepoFile, waiting: Any) -> Iterator[None]:
        """Hold the lock that the hub's library takes for this file. `waiting()` is called twice a
        second while another program has it."""
        import filelock

        path = self.cache / ".locks" / self.folder.name / f"{file.etag}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.5)
            except filelock.Timeout:
                waiting()
        try:
            self.blob(file).parent.mkdir(parents=True, exist_ok=True)
            yield
        finally:
            lock.release()


def _files(folder: Path) -> Iterator[Path]:
    """All files and links in it; a link to a folder is not entered."""
    for here, folders, files in os.walk(folder):
        for name in files:
            yield Path(here, name)
        for name in folders:
            if Path(here, name).is_symlink():
                yield Path(here, name)


def _size(path: Path) -> int:
    """In bytes, links followed; -1 where there is no file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
