"""The virtual environment beside launch.py: its stamp, its lock, its making.

The stamp is a file inside it, written last: for each part (dependencies, test, starter) the digest
of what was installed. A part without its stamp is installed again, which costs pip seconds where
everything is there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from webui.setup.talk import SetupFailed, Talk

PROBE = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
# What `python -m venv` makes. A folder that holds other things and no pyvenv.cfg is not ours.
VENV_ENTRIES = {"bin", "include", "lib", "lib64", "Scripts", "Include", "Lib", "tmp", ".gitignore"}


class Environment:
    """`.venv` in the folder `root`, whether it is there or not."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".venv"
        windows = sys.platform == "win32"
        self.python = self.folder / ("Scripts/python.exe" if windows else "bin/python")
        self.stamp_file = self.folder / "werkbank.json"
        self.temp = None if windows else self.folder / "tmp"

    def has(self, digests: dict[str, str]) -> bool:
        """Whether it is here, starts as far as a look tells, and has all these parts."""
        stamp = self.stamp()
        return (
            all(stamp.get(part) == digest for part, digest in digests.items())
            and stamp.get("python") == self._identity()
            and self.python.exists()  # follows the link: false where its Python was removed
        )

    def stamp(self) -> dict[str, str]:
        """What was installed, by part; empty where nothing was finished."""
        try:
            data = json.loads(self.stamp_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def write_stamp(self, **parts: str) -> None:
        """Add parts to the stamp, in one step that is done or not done."""
        half = self.stamp_file.with_suffix(".partial")
        stamp = self.stamp() | {"python": self._identity()} | parts
        half.write_text(json.dumps(stamp, indent=1), "utf-8")
        os.replace(half, self.stamp_file)

    def site(self) -> Path:
        """Its site-packages folder."""
        found = sorted(self.folder.glob("lib/python3.*/site-packages"))
        return found[-1] if found else self.folder / "Lib" / "site-packages"

    def drop_halves(self) -> None:
        """Forget packages that a killed pip left half unpacked, so that pip brings them again.

        pip writes the file INSTALLER after all files of a package (`pip/_internal/operations`).
        """
        for package in self.site().glob("*.dist-info"):
            if not (package / "INSTALLER").exists():
                shutil.rmtree(package, ignore_errors=True)

    def starts(self) -> bool:
        """Whether its Python runs, is new enough, finds its own packages and has pip."""
        if not self.python.exists():
            return False
        try:
            ran = subprocess.run(
                [self.python, "-I", "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=60, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        version = ran.stdout.strip()
        new_enough = ran.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 11)
        ours = sys.platform == "win32" or (self.folder / f"lib/python{version}").is_dir()
        return new_enough and ours

    def make(self, lock: int | None = None) -> None:
        """Make it anew, whatever was there. Raises SetupFailed in two sentences."""
        if self.folder.exists() and not (self.folder / "pyvenv.cfg").exists():
            strange = {p.name for p in self.folder.iterdir()} - VENV_ENTRIES
            if strange:
                raise SetupFailed(
                    f"{self.folder} exists, and it is no Python environment.",
                    "Move it away (nothing in it was touched), then start again.",
                )
        if importlib.util.find_spec("ensurepip") is None:
            raise SetupFailed(
                "This Python lacks the module ensurepip, so it cannot make an environment.",
                "Install it (on Debian and Ubuntu: apt install python3-venv), then start again.",
            )
        ran = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", self.folder], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            pass_fds=() if lock is None or sys.platform == "win32" else (lock,), check=False,
        )  # fmt: skip
        if ran.returncode:
            last = (ran.stdout.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
            raise SetupFailed(
                f"The environment {self.folder} could not be made: {last.rstrip('.')}.",
                "Mend that, or start with another Python 3.11 or newer.",
            )

    def _identity(self) -> str:
        """The Python behind it: another one after an upgrade of the system means a new look."""
        return os.path.realpath(self.python)


def running_is_virtual() -> bool:
    """Whether this Python is in a virtual environment, conda's included."""
    return sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir()


def running_site() -> Path:
    """The site-packages folder of this Python."""
    return Path(sysconfig.get_path("purelib"))


@contextlib.contextmanager
def only_one(file: Path, talk: Talk) -> Iterator[int]:
    """Wait until no other start sets up, then hold the lock; yields its descriptor.

    The operating system frees the lock when the last process that has it open ends, however it
    ends. Raises SetupFailed where the folder cannot be written.
    """
    try:
        handle = open(file, "a+")
    except OSError as error:
        raise SetupFailed(
            f"Set-up cannot write in {file.parent} ({error.strerror}).",
            "Start it as the owner of that folder, or copy the folder to your home.",
        ) from error
    with handle:
        if not _lock(handle):
            talk.line("Another start is setting Werkbank up already. Waiting for it to finish.")
            while not _lock(handle):
                time.sleep(0.3)
        yield handle.fileno()


def _lock(handle: IO[str]) -> bool:
    # As backends/runtime/process.py does it, which is not there before anything is installed:
    # importing any module of backends reads the cards of all.
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
