"""What the models take on the disk, and getting it back.

The hub's cache is counted by its blobs, and a blob that several models share once. No link is
followed out of its place, neither for counting nor for deleting.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.base import ModelRef, Refused
from backends.models import gguf_copy, library, trained
from backends.models.catalogue import read_rows
from backends.models.check import gguf_parts

Place = Literal["hub", "own", "allowed", "copy"]
STORE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Use:
    """One thing on the disk. `bytes` come back when it is deleted; `shared` are used by others as
    well and stay. What cannot be deleted here says why in `note`."""

    title: str
    place: Place
    bytes: int
    ref: ModelRef | None = None  # None: an unfinished or outdated copy
    shared: int = 0
    note: str = ""
    path: Path | None = None

    @property
    def removable(self) -> bool:
        return self.place != "allowed"


def uses() -> list[Use]:
    """All of it, the largest first. Reads folders only: tenths of a second, call it in a thread."""
    found = [*_hub_uses(), *_own_uses(), *_allowed_uses(), *_copies()]
    return sorted(found, key=lambda use: -use.bytes)


def total(listed: Iterable[Use]) -> int:
    """Bytes of them together, what is shared counted once."""
    several = list(listed)
    stored = {blob for use in several if use.place == "hub" and use.path
              for blob in _store_of(use.path)}  # fmt: skip
    return sum(_tree(u.path) if u.path else 0 for u in several) + sum(map(_size, stored))


def delete(
    ref: ModelRef,
    loaded: Collection[ModelRef] = (),
    downloading: Collection[str] = (),
    attached: Collection[ModelRef] = (),
    training: Collection[ModelRef] = (),
) -> int:
    """Remove a model from the disk; the bytes that came back.

    loaded       what is in memory: that is refused, and so is all that follows
    downloading  names (owner/name) of downloads that are under way
    attached     adapters that a loaded model answers with
    training     bases of jobs that run or wait
    A hub reference without a file means all of that model in the cache, all its versions.
    Raises Refused, two sentences.
    """
    if busy := next((other for other in loaded if _same(ref, other)), None):
        raise Refused(f"The model {busy.name} is loaded.", "Unload it first, then delete it.")
    if any(_same(ref, other) for other in attached):
        raise Refused(
            f"The adapter {ref.name} is attached to a model that is loaded.",
            "Unload that model, or ask it once without the adapter; then delete it.",
        )
    if any(_same(ref, other) for other in training):
        raise Refused(
            f"The model {ref.name} is the base of a training that runs or waits.",
            "Stop the training, or wait for its end; then delete it.",
        )
    if ref.kind == "hub" and ref.name in downloading:
        raise Refused(f"{ref.name} is being downloaded.", "Cancel the download first.")
    if ref.kind == "job":
        raise Refused(
            f"{trained.title_of(library.jobs_folder(), ref)} belongs to its training.",
            "Delete the training, on the Fine-tune tab.",
        )
    finders = {"hub": _delete_hub, "folder": _delete_own, "starter": _delete_copy}
    if ref.kind not in finders:
        raise Refused(f"{ref} came with a package and takes no room of its own.", "Leave it there.")
    try:
        return finders[ref.kind](ref)
    except OSError as error:
        raise Refused(
            f"{ref.name} could not be deleted ({error.strerror}).",
            "Close the programs that use it, and check who may write its folder.",
        ) from error


def clear_copies(loaded: Collection[ModelRef] = ()) -> int:
    """Remove all copies that are made again when they are wanted; the bytes that came back."""
    freed = 0
    for use in _copies():
        if use.path and not any(use.ref and _same(use.ref, other) for other in loaded):
            freed += _remove_copy(use.path)
    return freed


def _remove_copy(path: Path) -> int:
    """0 where a process makes it at this moment: it holds the copy's lock."""
    import filelock

    with suppress(filelock.Timeout), filelock.FileLock(path.with_suffix(".lock"), timeout=0):
        return _remove(path)
    return 0


# The hub's cache


def _hub_uses() -> Iterator[Use]:
    cache = library.hub_cache()
    repos = [p for p in sorted(cache.glob("models--*--*")) if p.is_dir() and not p.is_symlink()]
    owners: dict[Path, int] = {}
    for repo in repos:
        for blob in _store_of(repo):
            owners[blob] = owners.get(blob, 0) + 1
    for repo in repos:
        ref = ModelRef("hub", repo.name.removeprefix("models--").replace("--", "/", 1))
        stored = _store_of(repo)
        alone = sum(_size(blob) for blob in stored if owners[blob] == 1)
        shared = sum(_size(blob) for blob in stored if owners[blob] > 1)
        partial = any(repo.glob("blobs/*.incomplete"))
        note = "A part of it was downloaded and not finished." if partial else ""
        yield Use(ref.name, "hub", _tree(repo) + alone, ref, shared, note, repo)


def _delete_hub(ref: ModelRef) -> int:
    repo = library.hub_cache() / f"models--{ref.name.replace('/', '--')}"
    if ref.file:
        file = library.locate(ref)
        snapshot = library.locate(ModelRef("hub", ref.name, ref.revision, ""))
        others = _weights(snapshot if snapshot.is_dir() else snapshot.parent)
        if set(others) - set(gguf_parts(file)):
            return _delete_hub_file(repo, file)
    if repo.is_symlink():
        raise Refused(f"{repo.name} in the hub cache is a link.", "Remove it by hand.")
    if not repo.is_dir():
        raise Refused(f"{ref.name} is not in the hub cache any more.", "Nothing is to be done.")
    stored = _store_of(repo)
    freed = _remove(repo)
    locks = library.hub_cache() / ".locks" / repo.name
    if not locks.is_symlink():
        shutil.rmtree(locks, ignore_errors=True)
    return freed + sum(_sweep(blob) for blob in stored)


def _delete_hub_file(repo: Path, file: Path) -> int:
    """One GGUF of several: its links in all versions, and its blobs."""
    freed = 0
    for part in gguf_parts(file):
        blob = _target(part)
        if blob is None or blob.parent != repo / "blobs":
            freed += _remove(part)  # a file in the snapshot itself, as on Windows
            continue
        for other in list(repo.glob("snapshots/**/*")):
            if _target(other) == blob:
                other.unlink()
        store = _target(blob)
        freed += _remove(blob)
        freed += _sweep(store) if store else 0
    return freed


def _store_of(repo: Path) -> set[Path]:
    """Blobs of the store for the whole cache (since huggingface_hub 2) that a model leads to."""
    store = repo.parent / "blobs"
    found = set()
    for link in repo.glob("blobs/*"):
        blob = _target(link)
        if blob and blob.parent.parent == store and STORE.fullmatch(blob.name):
            found.add(blob)
    return {blob for blob in found if blob.is_file() and not blob.is_symlink()}


def _sweep(blob: Path) -> int:
    """Remove a blob of that store where no model leads to it any more."""
    import filelock

    cache = blob.parent.parent.parent
    with suppress(filelock.Timeout), filelock.FileLock(f"{blob}.lock", timeout=5):
        if not any(blob in _store_of(repo) for repo in cache.glob("*--*--*") if repo.is_dir()):
            freed = _remove(blob)
            Path(f"{blob}.refs").unlink(missing_ok=True)
            return freed
    return 0


# Own models, allowed folders


def _own_uses() -> Iterator[Use]:
    root = library.models_folder()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(".") and not path.name.startswith((".adding-", ".converting-")):
            continue
        left = path.name.startswith(".")
        ref = None if left else ModelRef("folder", library.name_id(path.name))
        note = "It was being added and is not whole." if left else ""
        yield Use(path.name, "own", _tree(path), ref, note=note, path=path)


def _allowed_uses() -> Iterator[Use]:
    note = "It lies in a folder that Werkbank only reads."
    seen: set[Path] = set()
    for ref, path in library.own_models():
        if "/" in ref.name and path not in seen:
            seen.add(path)
            yield Use(path.name, "allowed", _tree(path), ref, note=note, path=path)


def _delete_own(ref: ModelRef) -> int:
    if "/" in ref.name:
        raise Refused(
            f"{ref.name.partition('/')[2]} lies in a folder that Werkbank only reads.",
            "Delete it there yourself, or take the folder off the list in the settings.",
        )
    root = library.models_folder()
    entry = next((p for p in root.iterdir() if library.name_id(p.name) == ref.name), None)
    if entry is None:
        raise Refused(f"{ref.name} is not there any more.", "Nothing is to be done.")
    if ref.file and entry.is_dir() and not entry.is_symlink():
        file = library.locate(ref)
        if set(_weights(entry)) - set(gguf_parts(file)):
            return sum(_remove(part) for part in gguf_parts(file))
    if entry.is_file():
        return sum(_remove(part) for part in gguf_parts(entry))
    return _remove(entry)


# Copies that are made here


def _copies() -> Iterator[Use]:
    root = library.cache() / "converted"
    known = {}
    for row in read_rows():
        if row.source and row.source.kind == "starter":
            with suppress(Refused, OSError):
                source = library.locate(row.source)
                known[gguf_copy.folder_of(source, library.cache())] = row
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.suffix == ".lock":
            continue
        found = known.get(path)
        title = found.title if found else f"Outdated copy {path.name}"
        note = "It is made again when it is wanted." if found else "Nothing uses it any more."
        yield Use(title, "copy", _tree(path), found.ref if found else None, note=note, path=path)


def _delete_copy(ref: ModelRef) -> int:
    for use in _copies():
        if use.ref == ref and use.path:
            return _remove(use.path)
    raise Refused(f"{ref.name} takes no room of its own: it came with Werkbank.", "Leave it there.")


# Files


def _same(ref: ModelRef, other: ModelRef) -> bool:
    """Whether deleting `ref` would take files away from `other`."""
    alone = ref.file and other.file and ref.file != other.file
    return (ref.kind, ref.name) == (other.kind, other.name) and not alone


def _weights(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in (".gguf", ".safetensors")]


def _target(link: Path) -> Path | None:
    """Where a link leads in one step; None for what is no link."""
    try:
        return Path(os.path.normpath(link.parent / os.readlink(link)))
    except OSError:
        return None


def _remove(path: Path) -> int:
    """A file, a folder, or a link itself; the bytes that came back, counted afterwards."""
    before = _tree(path, _alone)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return before - _tree(path, _alone)


def _tree(path: Path, size: Callable[[Path], int] | None = None) -> int:
    """Bytes of the files in it; links count nothing, whatever they lead to."""
    size = size or _size
    if path.is_symlink() or not path.is_dir():
        return size(path)
    total = 0
    for here, _, files in os.walk(path):
        total += sum(size(Path(here, name)) for name in files)
    return total


def _alone(path: Path) -> int:
    """Bytes that come back with the file: none where it has a second name (`plain_copy`)."""
    try:
        return _size(path) if path.lstat().st_nlink == 1 else 0
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return 0 if path.is_symlink() else path.lstat().st_size
    except OSError:
        return 0
