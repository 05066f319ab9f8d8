"""Home and cache: how much they take, and clearing what can be made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from backends.base import ModelRef, Refused
from backends.models import library, usage

# The folders in the cache whose content Werkbank makes, and makes again when it is needed.
MADE = ("converted", "adapters")


@dataclass(frozen=True)
class Place:
    title: str
    path: Path
    bytes: int


def places(home: Path) -> list[Place]:
    """What Werkbank uses on the disk. Walks the folders: call it in a thread."""
    return [
        Place("Yours: conversations, settings, models", home, folder_bytes(home)),
        Place("Made here, can be made again", library.cache(), made_bytes()),
        Place("From the hub, shared with other programs", library.hub_cache(),
              folder_bytes(library.hub_cache())),
    ]  # fmt: skip


def made_bytes() -> int:
    return sum(folder_bytes(library.cache() / name) for name in MADE)


def clear_made(loaded: Collection[ModelRef]) -> int:
    """Delete what can be made again, and nothing else of the cache; the bytes that came back.

    A copy that is in memory (`loaded`) stays. Raises Refused where the system keeps a file.
    """
    adapters = library.cache() / "adapters"
    before = made_bytes()
    try:
        usage.clear_copies(loaded)
        if adapters.is_dir() and not adapters.is_symlink():
            shutil.rmtree(adapters)
    except OSError as error:
        raise Refused(
            f"{library.cache()} could not be cleared ({error.strerror}).",
            "Close what uses it, and try again.",
        ) from error
    return before - made_bytes()


def folder_bytes(folder: Path) -> int:
    """Of all files in it, links not followed; what vanishes meanwhile counts nothing."""
    total, waiting = 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
