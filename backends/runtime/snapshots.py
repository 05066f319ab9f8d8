"""The snapshots of a job: which there are, and which its owner keeps.

The page writes the pins, the job reads them at each rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backends.base import Refused
from backends.runtime import checkpoints
from backends.runtime.disk import read_json, write_json

PINS = "pinned.json"


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a job.

    sealed   all of it was written; only then it can be resumed from or chatted with
    pinned   it stays, however many come after it
    bytes    of all its files
    created  seconds since 1970: when it was sealed, or begun
    """

    step: int
    sealed: bool
    pinned: bool
    bytes: int
    created: float


def pinned(job: Path) -> set[int]:
    """The steps whose snapshots stay, in the job's folder `job`."""
    steps = read_json(job / PINS).get("steps")
    return {n for n in steps if isinstance(n, int)} if isinstance(steps, list) else set()


def pin(job: Path, step: int, keep: bool = True) -> None:
    """Keep the snapshot of `step`, or no longer. Raises Refused where it is gone already."""
    steps = pinned(job)
    write_json(job / PINS, {"steps": sorted(steps | {step} if keep else steps - {step})})
    # Looked for after it was written: from then on no rotation takes it.
    if keep and all(one.step != step for one in listed(job) if one.sealed):
        write_json(job / PINS, {"steps": sorted(steps - {step})})
        raise Refused(
            f"There is no snapshot of step {step}.", "It made room for newer ones: keep one sooner."
        )


def listed(job: Path) -> list[Snapshot]:
    """All of them, the oldest first. Reads no file's contents but the pins."""
    kept, found = pinned(job), []
    for folder in checkpoints.steps(job / "checkpoints"):
        manifest = folder / checkpoints.MANIFEST
        try:
            sealed = manifest.is_file()
            created = (manifest if sealed else folder).stat().st_mtime
            size = checkpoints.size_of(folder)
        except OSError:  # rotated away meanwhile
            continue
        step = checkpoints.step_of(folder)
        found.append(Snapshot(step, sealed, step in kept, size, created))
    return found
