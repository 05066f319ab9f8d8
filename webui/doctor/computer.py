"""The doctor's look at the computer: Python, system, clock, memory, disks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from webui.doctor.finding import Finding
from webui.setup.pins import ROOT
from webui.setup.talk import size

LITTLE_DISK, NO_DISK = 5e9, 2e8  # bytes: a model fits, a conversation can be saved
LITTLE_RAM = 7.5e9  # bytes


def computer_findings(home: Path) -> Iterator[Finding]:
    """Python, system, clock, memory, disks."""
    version = platform.python_version()
    if sys.version_info < (3, 11) or sys.maxsize < 2**32:
        yield Finding("Python", f"{version}, {platform.architecture()[0]}", "wrong",
                      "Install a 64-bit Python 3.11 or newer and start with it.")  # fmt: skip
    else:
        yield Finding("Python", f"{version} ({sys.executable})")
    cores = os.cpu_count() or 1
    yield Finding("System", f"{platform.platform(terse=True)}, {platform.machine()}, {cores} cores")
    yield _clock(time.time(), (ROOT / "pyproject.toml").stat().st_mtime)
    yield _memory(total_ram())
    yield _disk("Disk, home", home)
    yield _disk("Disk, cache", folder_of("cache"))


def _clock(now: float, newest: float) -> Finding:
    """`newest` is when this checkout was written: no right clock is behind it."""
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    if now < newest - 86_400:
        return Finding("Clock", f"{shown} is in the past", "wrong",
                       "Set the clock: with a wrong one every download is refused.")  # fmt: skip
    return Finding("Clock", shown)


def total_ram() -> int:
    """Bytes of memory, 0 where the standard library cannot tell."""
    try:
        import psutil
    except ImportError:
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 0
    return int(psutil.virtual_memory().total)


def _memory(total: int) -> Finding:
    if not total:
        return Finding("Memory", "not known", "note")
    shown = f"{total / 2**30:.0f} GiB"
    if total < LITTLE_RAM:
        return Finding("Memory", shown, "note", "Load small models only: larger ones need 8 GiB.")
    return Finding("Memory", shown)


def _disk(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(existing(folder)).free
    value = f"{size(free)} free for {folder}"
    if free < NO_DISK:
        return Finding(name, value, "wrong", "Free some space there: nothing can be saved.")
    if free < LITTLE_DISK:
        return Finding(name, value, "note", "Free some space there before a model is downloaded.")
    return Finding(name, value)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def folder_of(kind: Literal["home", "cache"]) -> Path:
    """WERKBANK_HOME or WERKBANK_CACHE, or where they are when they are not set."""
    try:
        from backends.models import library
    except ImportError:
        named = os.environ.get(f"WERKBANK_{kind.upper()}")
        return Path(named).absolute() if named else _usual_folder(kind)
    return (library.home() if kind == "home" else library.cache()).absolute()


def _usual_folder(kind: Literal["home", "cache"]) -> Path:
    """What platformdirs, which the library asks, would say."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "werkbank"
        return base if kind == "home" else base / "Cache"
    if sys.platform == "darwin":
        library = Path.home() / "Library"
        return library / ("Application Support" if kind == "home" else "Caches") / "werkbank"
    variable, usual = {"home": ("XDG_DATA_HOME", ".local/share"),
                       "cache": ("XDG_CACHE_HOME", ".cache")}[kind]  # fmt: skip
    return Path(os.environ.get(variable) or Path.home() / usual) / "werkbank"
