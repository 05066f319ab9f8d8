"""Which steps of the set-up are missing, and doing them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from webui.setup.environment import Environment, only_one, running_is_virtual, running_site
from webui.setup.pins import Pins, name_of, read_pins, unmet
from webui.setup.pip_run import Pip, Progress, repeat_command
from webui.setup.talk import SetupFailed, Talk, clock, size

LOG = ".venv.log"
PART_BYTES = {"test": 600_000_000, "starter": 400_000_000}  # beside the dependencies
PART_NAMES = {"dependencies": "libraries", "test": "what the tests need", "starter": "two small "
              "models to start with"}  # fmt: skip


def ensure(root: Path, *, test: bool, talk: Talk) -> str:
    """The Python that has everything, set up first where that has not been done.

    A Python that runs this and has the dependencies is used as it is; otherwise `.venv` is.
    Raises SetupFailed with two sentences.
    """
    pins, own = read_pins(root), Environment(root)
    parts = ("dependencies", "test", "starter") if test else ("dependencies", "starter")
    digests = {part: pins.digest(part) for part in parts}
    inside_own = Path(sys.prefix).resolve() == own.folder.resolve()
    if not inside_own and not unmet(pins.dependencies):
        return _use_running(root, pins, test, talk)
    if own.has(digests):
        return str(own.python)
    with only_one(root / ".venv.lock", talk) as lock:
        if not own.has(digests):  # still missing after the other start ended
            _fill(root, own, pins, digests, talk, lock)
    return str(own.python)


def _fill(
    root: Path, own: Environment, pins: Pins, digests: dict[str, str], talk: Talk, lock: int
) -> None:
    """Make `.venv` where it does not start, and install the parts whose stamp is missing."""
    began, healthy = time.monotonic(), own.starts()
    stamp = own.stamp() if healthy else {}
    missing = [part for part, digest in digests.items() if stamp.get(part) != digest]
    needed = _needed(own, pins, missing, healthy)
    _announce(own, pins, missing, needed, talk)
    check_space(own.folder if own.folder.exists() else root, needed)  # .venv may be a link
    with _log_of(root) as log:
        if not healthy:
            _make(own, talk, lock)
        own.write_stamp()
        own.drop_halves()
        pip = Pip(
            str(own.python), own.site(), log, talk,
            temp=own.temp, lock=lock, cache=_cache_fits(root, pins, own.python),
        )  # fmt: skip
        for part in missing:
            talk.line(f"Installing {PART_NAMES[part]}:", "bold")
            if install_part(part, pins, pip, talk, quick=missing == ["starter"]):
                own.write_stamp(**{part: digests[part]})
        if own.temp is not None:
            shutil.rmtree(own.temp, ignore_errors=True)
    talk.line(f"Set-up is finished after {clock(time.monotonic() - began)}.", "green")
    talk.line()


def _make(own: Environment, talk: Talk, lock: int | None) -> None:
    if own.stamp_file.exists() or own.python.is_symlink():
        talk.line("The environment in .venv does not start any more. Making it anew.", "yellow")
    talk.status(f"  ... making {own.folder}")
    own.make(lock)
    version = ".".join(map(str, sys.version_info[:3]))
    talk.line(f"Made the environment .venv with Python {version}.")


def install_part(part: str, pins: Pins, pip: Pip, talk: Talk, *, quick: bool = False) -> bool:
    """Install one part; says whether it is there now. Only starter models may fail.

    `quick`: do not wait for a network that does not answer at once.
    """
    constraints = ("-c", str(pins.constraints)) if pins.constraints.is_file() else ()
    if part == "starter":
        return _starter(pins, pip, talk, ("--no-deps", *(["--retries=1"] if quick else [])))
    if part == "dependencies":
        first = tuple(r for r in pins.dependencies if name_of(r) in pins.first)
        progress = Progress(pins.packages)
        if first:
            pip.install(first, progress, constraints)
        pip.install(pins.dependencies, progress, constraints)
    else:
        pip.install(pins.wanted(part), Progress(), constraints)
    return True


def _starter(pins: Pins, pip: Pip, talk: Talk, options: tuple[str, ...]) -> bool:
    try:
        pip.install(pins.starter, Progress(), options)
    except SetupFailed as error:
        talk.line(f"The starter models are not complete. {error.message} {error.hint}", "yellow")
        talk.line("Werkbank works without them; the next start tries again.")
        return False
    return True


def _use_running(root: Path, pins: Pins, test: bool, talk: Talk) -> str:
    """Use the Python that runs this. What it lacks beside the dependencies is added to a virtual
    environment; in any other Python it is only named."""
    parts = ("test", "starter") if test else ("starter",)
    missing = [part for part in parts if unmet(pins.wanted(part))]
    for part in missing:
        lacking = " ".join(f'"{r}"' for r in unmet(pins.wanted(part)))
        command = f"{sys.executable} -m pip install {lacking}"
        if not running_is_virtual() and part == "test":
            raise SetupFailed(
                "This Python has what Werkbank needs, but not what its tests need.",
                f"Add it: {command}",
            )
        if not running_is_virtual():
            talk.line(f"The starter models are missing here. Add them: {command} --no-deps")
            continue
        talk.line(f"Adding {PART_NAMES[part]} to {sys.prefix}:", "bold")
        with _log_of(root) as log:
            pip = Pip(sys.executable, running_site(), log, talk)
            install_part(part, pins, pip, talk, quick=True)
    return sys.executable


@contextmanager
def _log_of(root: Path) -> Iterator[TextIO]:
    """The set-up's log; where the checkout cannot be written, one that is thrown away."""
    try:
        log = open(root / LOG, "a", encoding="utf-8")
    except OSError:
        log = open(os.devnull, "w", encoding="utf-8")
    with log:
        log.write(f"\n==== {datetime.now():%Y-%m-%d %H:%M:%S}  Python {sys.version}\n")
        yield log


def _needed(own: Environment, pins: Pins, missing: list[str], healthy: bool) -> int:
    """How many bytes the missing parts still take. What an interrupted set-up left counts."""
    needed = sum(PART_BYTES[part] for part in missing if part == "test")
    if "dependencies" in missing:
        return needed + max(0, pins.setup_bytes - (_folder_size(own.folder) if healthy else 0))
    return needed + sum(PART_BYTES[part] for part in missing if part == "starter")


def _folder_size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a file that another process has just removed
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def check_space(folder: Path, needed: int) -> None:
    """Raises SetupFailed where the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupFailed(
            f"Set-up needs {size(needed)} on the disk of {folder}, and {size(free)} are free.",
            f"Free {size(needed - free)} there, or move this folder to a larger disk; "
            f"then start again: {repeat_command()}",
        )


def _cache_fits(root: Path, pins: Pins, python: Path) -> bool:
    """Whether pip may keep its downloads, so that an interrupted set-up need not repeat them."""
    ran = subprocess.run(
        [python, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=False
    )
    cache = Path(ran.stdout.strip() or root)
    while not cache.exists():
        cache = cache.parent
    needed = pins.download_bytes
    if os.stat(cache).st_dev == os.stat(root).st_dev:
        needed += pins.setup_bytes
    return ran.returncode == 0 and shutil.disk_usage(cache).free > needed


def _announce(own: Environment, pins: Pins, missing: list[str], needed: int, talk: Talk) -> None:
    """Say what will be done before any of it is done."""
    if "dependencies" not in missing:
        names = " and ".join(PART_NAMES[part] for part in missing)
        talk.line(f"Set-up adds {names} ({size(needed)} of disk).", "bold")
        return
    root, free = own.folder.parent, shutil.disk_usage(own.folder.parent).free
    talk.line("Werkbank sets itself up. An interrupted set-up continues where it was.", "bold")
    talk.line(f"  into      {own.folder}, and nowhere else")
    talk.line(f"  disk      {size(needed)} needed, {size(free)} free")
    if pins.download_bytes:
        talk.line(f"  network   up to {size(pins.download_bytes)} of downloads")
    talk.line(f"  log       {root / LOG}")
