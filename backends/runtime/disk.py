"""Writing that survives a killed process and a pulled plug."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

LEFT_SECONDS = 60.0  # after which a partial file is one that a killed process has left


def write_json(file: Path, value: Any, *, durable: bool = False) -> None:
    """Replace `file` whole: a reader sees the old one or the new one, never a half.

    `durable` waits until it is on the disk. Raises OSError; what was there before stays then.
    Several processes may write the same file: each has a partial one of its own, and the last wins.
    """
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=1, ensure_ascii=False)
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(partial, file)
    except BaseException:  # also what is no JSON, and Ctrl-C
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _clear_partials(file)
    if durable:
        sync_folder(file.parent)


def is_partial(name: str, of: str) -> bool:
    """Whether a file's name is that of an unfinished `of`."""
    return name.startswith(f".{of}.") and name.endswith(".partial")


def _clear_partials(file: Path) -> None:
    """Those that killed processes left; a younger one may be written just now."""
    with contextlib.suppress(OSError):
        with os.scandir(file.parent) as entries:
            left = [Path(entry.path) for entry in entries if is_partial(entry.name, file.name)]
        for one in left:
            if time.time() - one.lstat().st_mtime > LEFT_SECONDS:
                one.unlink(missing_ok=True)


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty where there is no such file, or where it holds no object."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Lines:
    """A file of JSON objects, one a line, that only grows. Raises OSError where the disk is full.

    A line that a killed process left half is closed first, so that it spoils no other.
    """

    def __init__(self, file: Path) -> None:
        self._out = file.open("ab")
        if self._out.tell() and not _ends_whole(file):
            self._out.write(b"\n")

    def add(self, value: dict[str, Any]) -> None:
        """Write one line and hand it to the system."""
        self._out.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._out.flush()

    def close(self) -> None:
        self._out.close()


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read() == b"\n"


def read_lines(file: Path, since: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file of `Lines` from byte `since` on, and where to go on reading.

    A last line without its end is left for the next time; what is no object is passed over.
    """
    try:
        with file.open("rb") as handle:
            handle.seek(since)
            data = handle.read()
    except FileNotFoundError:
        return [], since
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found, since + len(whole)


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
