"""What every kind of training does about its checkpoints: room on the disk, and the seal.

Reading this file imports nothing heavy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from backends.runtime import checkpoints, snapshots

NOT_FINITE = 3  # steps in a row, after which it has diverged


class DiskShort(Exception):
    """There is not enough room for the next checkpoint. `needed` and `free` in bytes."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes needed, {free} free")
        self.needed, self.free = needed, free

    def as_usage(self) -> dict[str, Any]:
        """How a job ends that is short of disk, as the usage of its Done."""
        return {
            "status": "paused",
            "message": f"The next checkpoint needs {self.needed / 1e9:.1f} GB of free space, "
            f"and {self.free / 1e9:.1f} GB are free.",
            "hint": "Free some space, then resume: it goes on from the last checkpoint.",
        }


DIVERGED = {
    "status": "diverged",
    "message": "The loss is no longer a number: the training has diverged.",
    "hint": "Halve the learning rate. The last sound snapshot is kept.",
}


def make_room(job: Path, first_bytes: int, least: int = 0) -> None:
    """Raises DiskShort where the next checkpoint might not fit beside the ones kept.

    first_bytes: what the first one is thought to take; later ones are as large as the last, or
    `least` where that is more.
    """
    folder = job / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    needed = checkpoints.free_bytes_needed(max(_last_bytes(folder) or first_bytes, least))
    if shutil.disk_usage(folder).free >= needed:
        return
    checkpoints.rotate(folder, 1, snapshots.pinned(job))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskShort(needed, free)


def _last_bytes(folder: Path) -> int:
    known = [f for f in checkpoints.steps(folder) if (f / checkpoints.MANIFEST).is_file()]
    return checkpoints.size_of(known[-1]) if known else 0


def seal(job: Path, folder: Path, keep: int) -> None:
    """Seal a checkpoint that is written, and let older ones go. Raises OSError."""
    checkpoints.seal(folder)
    checkpoints.rotate(job / "checkpoints", keep, snapshots.pinned(job))
