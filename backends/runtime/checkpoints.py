"""A checkpoint is a folder `step-NNNNNN` that is sealed: MANIFEST.json, written last, names every
file with its size and sha256. One without it, or one that does not match it, is never resumed from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from backends.runtime.disk import is_partial, sync, sync_folder, write_json

MANIFEST = "MANIFEST.json"
BROKEN = "broken"
GOING = ".going-"  # renamed so before it is deleted: a kill halfway leaves no torn checkpoint
SPARE_BYTES = 500 * 10**6
_NAME = re.compile(r"step-(\d{6,})")


def name_of(step: int) -> str:
    """The folder's name of the checkpoint after `step`."""
    return f"step-{step:06}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named for; -1 where it is no checkpoint."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def steps(checkpoints: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first, sound or not."""
    if not checkpoints.is_dir():
        return []
    found = [p for p in checkpoints.iterdir() if step_of(p) >= 0 and p.is_dir()]
    return sorted(found, key=step_of)


def seal(folder: Path) -> None:
    """Call it when all files of `folder` are written. Afterwards it survives a power cut.

    Raises OSError where the disk is full; the folder then counts as torn.
    """
    entries = []
    for file in _files(folder):
        sync(file)
        name = file.relative_to(folder).as_posix()
        entries.append({"name": name, "size": file.stat().st_size, "sha256": _sha256(file)})
    for inner in folder.rglob("*"):
        if inner.is_dir():
            sync_folder(inner)
    sync_folder(folder)
    write_json(folder / MANIFEST, {"files": entries}, durable=True)
    sync_folder(folder.parent)


def verify(folder: Path) -> str:
    """What is wrong with a checkpoint, as a sentence; "" for a sound one. Reads every byte."""
    try:
        entries = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        listed = {str(e["name"]): (int(e["size"]), str(e["sha256"])) for e in entries}
        if len(listed) != len(entries):
            return f"{MANIFEST} names a file twice."
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was never finished."
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read."
    for name, (size, digest) in listed.items():
        file = folder / name
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            return f"{name} is missing."
        found = file.stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}."
        if _sha256(file) != digest:
            return f"{name} is not what was written."
    return ""


def newest(checkpoints: Path) -> Path | None:
    """The highest sound checkpoint; None where there is none. Reads every byte: for a thread.

    Torn ones on the way are moved to `checkpoints/broken/`, out of the way and not deleted.
    """
    for folder in reversed(steps(checkpoints)):
        if not verify(folder):
            return folder
        _set_aside(folder)
    return None


def free_bytes_needed(last_size: int) -> int:
    """The free bytes that a next checkpoint takes to be safe, from the bytes of the last one."""
    return 2 * last_size + SPARE_BYTES


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder, those in its folders too. What has a second name
    elsewhere, as a dataset in the hub's cache, takes no room here."""
    found = (file.lstat() for file in _files(folder))
    return sum(stat.st_size for stat in found if stat.st_nlink == 1)


def rotate(checkpoints: Path, keep: int, pinned: Collection[int] = ()) -> list[Path]:
    """Delete all finished checkpoints but the newest `keep` (one at least) and the pinned steps.

    Returns what was deleted. Those without a manifest are left to `newest`, and count for nothing.
    """
    if checkpoints.is_dir():
        for left in checkpoints.glob(f"{GOING}*"):
            shutil.rmtree(left, ignore_errors=True)
    sealed = [folder for folder in steps(checkpoints) if (folder / MANIFEST).is_file()]
    old = [folder for folder in sealed[: -max(1, keep)] if step_of(folder) not in pinned]
    for folder in old:
        going = folder.with_name(GOING + folder.name)
        os.replace(folder, going)
        shutil.rmtree(going, ignore_errors=True)
    return old


def _set_aside(folder: Path) -> None:
    broken = folder.parent / BROKEN
    broken.mkdir(exist_ok=True)
    place, number = broken / folder.name, 2
    while place.exists():
        place, number = broken / f"{folder.name}-{number}", number + 1
    os.replace(folder, place)


def _files(folder: Path) -> list[Path]:
    """Every file but the manifest, in one order everywhere."""
    found = (p for p in folder.rglob("*") if p.is_file())
    names = ((p, p.relative_to(folder).as_posix()) for p in found)
    return sorted(p for p, name in names if name != MANIFEST and not is_partial(name, MANIFEST))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
