"""A stranger's file, even one that the user chose, is read in a process of its own.

The file is opened here after every check, and is that process's stdin: it is told neither a path
nor a name. Its answer is one line of JSON. A hostile file can end that process, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.runtime.process import CHECKOUT, start_flags

AT_ONCE = 2
ANSWER_BYTES = 16 * 2**20  # more than the longest text can take
# Of the machine, not of a page or a loop: how many files are read at once.
SLOTS = threading.BoundedSemaphore(AT_ONCE)


class NoAnswer(Exception):
    """The process said nothing whole; `late`: since its time was over."""

    def __init__(self, late: bool) -> None:
        super().__init__("no answer")
        self.late = late


@contextmanager
def opened(path: Path, allowed: Path, name: str, most_bytes: int, too_large: str) -> Iterator[int]:
    """The open file's number, after every check; what is read is what was checked.

    allowed: the folder into which Gradio puts what browsers send; `path` came from a browser and
    must lie there, links followed. too_large: what to do about a file that is. Raises Refused.
    """
    gone = Refused(f"{name} is not there any more.", "Attach it again.")
    try:
        real = path.resolve(strict=True)
        inside = real.is_relative_to(allowed.resolve(strict=True))
    except (OSError, RuntimeError, ValueError) as error:  # missing, a loop of links, a NUL in it
        raise gone from error
    if not inside:
        raise Refused(
            f"{name} does not lie where attached files are put, so it was not read.",
            "Attach it with the button or by dropping it onto the page.",
        )
    # A pipe under that name must not hold the page up, and a link put there since is not followed.
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        number = os.open(real, os.O_RDONLY | getattr(os, "O_BINARY", 0) | careful)
    except OSError as error:
        raise gone from error
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{name} is not a file.", "Attach single files.")
        if about.st_size > most_bytes:
            raise Refused(
                f"{name} has {about.st_size / 1e6:,.1f} MB, more than the "
                f"{most_bytes / 1e6:.0f} MB that an attachment may have.",
                too_large,
            )
        yield number
    finally:
        os.close(number)


async def ask(file: int, script: Path, name: str, seconds: float, patience: float) -> Any:
    """What the process that runs `script` says of the open file, at most two at once.

    seconds: which it has by its own clock; `patience` seconds more, for that to come first.
    Cancelling ends it. Raises NoAnswer.
    """
    async with _slot():
        loop = asyncio.get_running_loop()
        began = loop.time()
        line = await _line_of(file, script, name, seconds, patience)
        if line.endswith(b"\n"):
            return json.loads(line)
        raise NoAnswer(late=loop.time() - began >= seconds)


async def _line_of(file: int, script: Path, name: str, seconds: float, patience: float) -> bytes:
    process = await asyncio.create_subprocess_exec(
        # A bare file name: whoever looks for workers on command lines does not find this.
        *(sys.executable, "-P", script.name, str(seconds)),
        cwd=script.parent,
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
        **start_flags(),
    )
    line = b""
    try:
        async with asyncio.timeout(seconds + patience):
            line = await _line(process)
            await process.wait()  # it ends by itself now: to kill it would confuse asyncio's reaper
    except TimeoutError:
        logging.getLogger(__name__).warning("the reader of %s did not end", name)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return line


@asynccontextmanager
async def _slot() -> AsyncIterator[None]:
    while not SLOTS.acquire(blocking=False):
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        SLOTS.release()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout
    data = b""
    while len(data) < ANSWER_BYTES and (more := await process.stdout.read(2**16)):
        data += more
    return data


def _environment() -> dict[str, str]:
    """An allow-list: no secret of ours, no proxy, no hub."""
    keep = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONPATH")
    kept = {k: os.environ[k] for k in keep if k in os.environ}
    path = os.pathsep.join(p for p in (str(CHECKOUT), kept.get("PYTHONPATH", "")) if p)
    return {**kept, "PYTHONPATH": path}
