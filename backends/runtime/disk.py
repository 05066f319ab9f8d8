"""Writing that survives a killed process and a pulled plug."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def write_json(file: Path, value: Any, *, durable: bool = False) -> None:
    """Replace `file` whole: a reader sees the old one or the new one, never a half.

    `durable` waits until it is on the disk. Raises OSError; what was there before stays then.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=1, ensure_ascii=False)
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(partial, file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if durable:
        sync_folder(file.parent)


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty where there is no such file, or where it holds no object."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def sync(file: Path) -> None:
    """Wait until what was written to `file` is on the disk."""
    with file.open("rb+") as handle:  # Windows syncs only what is open for writing
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Windows has no such call and needs none."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
