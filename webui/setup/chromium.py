"""The browser that the tests drive: found on the system, else installed, else done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

VARIABLE = "WERKBANK_CHROMIUM"  # the path of the browser for the tests; empty: there is none
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
ELSEWHERE = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright as start\n"
    "with start() as p: print(p.chromium.executable_path)"
)
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def quietly(command: Sequence[str], seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program without input; one that hangs or does not exist failed, with code 127."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def find(*, playwright: bool = True, run: Run = quietly) -> str:
    """The path of a Chromium that starts, empty where there is none.

    A path in the environment variable WERKBANK_CHROMIUM is taken first.
    """
    for path in _candidates(playwright, run):
        # On Windows --version opens a window instead of answering. Elsewhere it tells a browser
        # from the stub that some systems install under its name.
        if sys.platform == "win32" or run([path, "--version"]).returncode == 0:
            return path
    return ""


def _candidates(playwright: bool, run: Run) -> Iterator[str]:
    named = (os.environ.get(VARIABLE) or "", *map(shutil.which, PROGRAMS), *ELSEWHERE)
    yield from (path for path in named if path and Path(path).is_file())
    if playwright:
        path = run([sys.executable, "-c", _ASK_PLAYWRIGHT]).stdout.strip()
        if path and Path(path).is_file():
            yield path


def provide(say: Callable[[str], None] = print) -> str:
    """A Chromium, installed where there is none. Empty where none can be had; never asks."""
    path = find()
    for what, commands in () if path else ways():
        say(f"No Chromium here. Trying: {what}")
        if all(_ran(command, say) for command in commands) and (path := find()):
            break
    return path


def ways() -> list[tuple[str, list[list[str]]]]:
    """How a Chromium can be installed here, the surest way first.

    Debian's package brings the system libraries that Playwright's own download leaves out.
    """
    playwright = [sys.executable, "-m", "playwright", "install", "chromium"]
    found = [("playwright install chromium", [playwright])]
    if is_debian_root():
        apt = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=120"]
        packages = ["install", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
        found.insert(0, ("apt-get install chromium", [[*apt, "update"], [*apt, *packages]]))
    return found


def is_debian_root() -> bool:
    """Whether Debian's packages can be installed without asking anybody."""
    root = sys.platform != "win32" and os.geteuid() == 0
    return root and Path("/etc/debian_version").exists() and bool(shutil.which("apt-get"))


def _ran(command: list[str], say: Callable[[str], None]) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=environment, timeout=900, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"  that failed: {error}")
        return False
    if ran.returncode:
        last = (ran.stdout.strip().splitlines() or ["no output"])[-1]
        say(f"  that failed (exit code {ran.returncode}): {last[:200]}")
    return ran.returncode == 0


def advice() -> str:
    """The command that gives the tests a browser."""
    package = "install the package chromium with your system's package manager"
    download = f"{sys.executable} -m playwright install chromium"
    return package if sys.platform == "linux" else download
