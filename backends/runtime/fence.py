"""A process closes its own doors before it opens what a stranger made.

A hook that Python asks before each of these deeds. What runs as Python inside it cannot take the
hook away; native code that was taken over could pass it by, so this is a fence and not a cell.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "ctypes.",
)
ON_DISK = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink")


def shut_doors(writable: Path | None = None) -> None:
    """From here on no connection, no program, and no file written but in the folder `writable`
    (where links lead is what counts). Cannot be taken back. Raises PermissionError at the deed."""
    folder = writable.resolve() if writable else None

    def inside(path: Any) -> bool:
        if folder is None or not isinstance(path, str | bytes | os.PathLike):
            return False
        return Path(os.fsdecode(path)).resolve().is_relative_to(folder)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            writes = (isinstance(mode, str) and set(mode) & set("wxa+")) or flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            bad = bool(writes) and not inside(arguments[0])
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            bad = not inside(arguments[0])
        else:
            bad = event in ON_DISK or event.startswith(FORBIDDEN)
        if bad:
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(refuse)
