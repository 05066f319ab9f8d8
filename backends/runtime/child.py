"""One worker process as the page sees it: calls go in, events come out, its death is an event.

Lives in the server's event loop and nowhere else. Nothing that the worker sends is trusted beyond
being one of the events in `backends.events`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from backends.events import Done, Event, Failed, Notice, from_json
from backends.runtime import frames
from backends.runtime.frames import POISONED, RECYCLED
from backends.runtime.process import CHECKOUT, child_environment, kill_tree, own_temp, start_flags

GRACE = 3.0  # seconds that a cancelled call gets before its process is killed
TAIL_LINES = 40  # of the log, shown as details
LOG_BYTES = 1_000_000
LOW_RAM_BYTES = 300 * 2**20
AGAIN = "Send it again: the model is loaded again by itself."


class Call:
    """One command under way. Iterate `events()`; the last one is Done or Failed."""

    def __init__(self, child: Child, number: int) -> None:
        self.child, self.number = child, number
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.over = asyncio.Event()
        self._ladder: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
        if not self.over.is_set():
            self.queue.put_nowait(event)
            if isinstance(event, Done | Failed):
                self.over.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Closing this iterator early cancels the call."""
        try:
            while True:
                event = await self.queue.get()
                yield event
                if isinstance(event, Done | Failed):
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ask; after `GRACE` seconds kill the process. Returns at once, may be called twice."""
        if self.over.is_set() or self._ladder:
            return
        self.child.send(self.number, "cancel")
        self._ladder = asyncio.get_running_loop().create_task(self._climb())

    async def _climb(self) -> None:
        try:
            await asyncio.wait_for(self.over.wait(), self.child.grace)
        except TimeoutError:
            # What it was doing does not look at the flag: only the end of the process stops it.
            self.child.ending = "cancelled"
            self.child.kill()


class Child:
    """A running `python -m backends.worker`.

    `memory` is what it last said of itself, in bytes; `heard` when it last said anything
    (monotonic seconds); `ending` why the page ended it, empty where it did not.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.grace = GRACE
        self.temp = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=own_temp(folder)))
        self.logs = _made(folder / "logs")
        self._log_file = self._open_log(name)
        self.pid, self.created = 0, 0.0
        self.memory: dict[str, int] = {}
        self.heard = self.started = time.monotonic()
        self.preloaded = asyncio.Event()
        self.gone = asyncio.Event()
        self.ending = ""
        self.leaving = False  # it said that it is about to end by itself
        self.death: Failed | None = None
        self.exit_code: int | None = None
        self.on_gone: Callable[[Child], None] = lambda child: None
        self._process: asyncio.subprocess.Process | None = None
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._low_ram = False
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, folder: Path, name: str, preload: Sequence[str] = ()) -> Child:
        """Start one. Returns at once; a call made before it is up waits in the pipe."""
        child = cls(folder, name)
        child._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "backends.worker", "--preload", ",".join(preload),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=frames.TO_PAGE_BYTES,
            env=child_environment(child.temp),
            cwd=CHECKOUT,
            **start_flags(),
        )  # fmt: skip
        child.pid = child._process.pid
        loop = asyncio.get_running_loop()
        child._tasks = [loop.create_task(child._read()), loop.create_task(child._log())]
        return child

    @property
    def alive(self) -> bool:
        return not self.gone.is_set()

    @property
    def log_path(self) -> Path:
        return Path(self._log_file.baseFilename)

    def rename(self, name: str) -> None:
        """What was a spare is a model's from now on: its log goes under that name."""
        self._log_file.close()
        self._log_file = self._open_log(name)
        if self._tail:
            self._write("\n".join(self._tail))

    def call(self, do: str, **fields: Any) -> Call:
        """Send a command. Where the process is dead the call fails at once, as an event."""
        call = Call(self, self._next)
        self._next += 1
        self._calls[call.number] = call
        if self.death:
            call.put(self.death)
        else:
            self.send(call.number, do, **fields)
        return call

    def send(self, number: int, do: str, **fields: Any) -> None:
        """Raises ValueError where the message is too large for the pipe."""
        line = frames.encode({"id": number, "do": do, **fields}, frames.TO_WORKER_BYTES)
        pipe = self._process.stdin if self._process else None
        if pipe and not pipe.is_closing():
            pipe.write(line)

    def tell(self, message: str) -> None:
        """A notice to everybody who waits for an answer of this process."""
        for call in self._calls.values():
            call.put(Notice(message))

    def resident_bytes(self) -> int:
        """What the process holds in RAM at this moment; 0 where it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def kill(self) -> None:
        """End the process and its children now. What the user sees follows from `ending`."""
        if self.alive and self._process:
            kill_tree(self._process.pid)

    async def stop(self, grace: float = 2.0) -> None:
        """End it politely: close its stdin, wait, then kill. Never waits longer than twice."""
        self.ending = self.ending or "stopped"
        if self._process and self._process.stdin:
            self._process.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), grace)
        finally:
            self.kill()  # also where this wait is cancelled; nothing happens to one that is gone
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), grace)

    # Reading

    async def _read(self) -> None:
        assert self._process and self._process.stdout
        try:
            while line := await self._process.stdout.readline():
                self.heard = time.monotonic()
                self._take(frames.decode(line))
        except ConnectionError as error:
            self._tail.append(f"pipe error: {error}")
        except Exception as error:  # whatever a broken worker says: it must not end the reading
            self.ending = "protocol"
            self._tail.append(f"protocol error: {type(error).__name__}: {error}")
            self.kill()
        await self._bury()

    def _take(self, frame: dict[str, Any]) -> None:
        number, say = frame["id"], frame.get("say")
        if number == 0:
            if say == "hello":
                self.pid, self.created = int(frame["pid"]), float(frame["created"])
            elif say == "preloaded":
                self.preloaded.set()
            elif say == "leaving":
                self.leaving = True
            elif say == "beat":
                self.memory = {str(k): int(v) for k, v in dict(frame["memory"]).items()}
                self._low_ram = psutil.virtual_memory().available < LOW_RAM_BYTES
        elif call := self._calls.get(number):
            call.put(from_json(frame))
            if call.over.is_set():
                del self._calls[number]

    async def _log(self) -> None:
        assert self._process and self._process.stderr
        while piece := await self._process.stderr.read(65536):
            text = piece.decode("utf-8", "replace")
            self._tail.extend(text.splitlines())
            self._write(text.rstrip("\n"))
        self._log_file.close()

    def _open_log(self, name: str) -> logging.handlers.RotatingFileHandler:
        return logging.handlers.RotatingFileHandler(
            self.logs / f"worker-{name}.log",
            maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True,
        )  # fmt: skip

    def _write(self, text: str) -> None:
        self._log_file.emit(logging.LogRecord("worker", 20, "", 0, "%s", (text,), None))

    async def _bury(self) -> None:
        assert self._process
        code = self.exit_code = await self._process.wait()
        await asyncio.wait([self._tasks[1]], timeout=0.2)  # the last lines of the log
        self.death = explain_death(code, self.ending, self._low_ram, "\n".join(self._tail))
        self.gone.set()
        for call in self._calls.values():
            if self.ending == "cancelled" and call._ladder:
                call.put(Notice("Stopped by restarting the model, which did not react."))
                call.put(Done(cancelled=True))
            else:
                call.put(self.death)
        self._calls.clear()
        shutil.rmtree(self.temp, ignore_errors=True)
        self.on_gone(self)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def explain_death(code: int, ending: str, low_ram: bool, tail: str) -> Failed:
    """Why a worker is gone, in two sentences. `code` is negative for a signal, as in Popen."""
    detail = f"exit code {code}\n{tail}"
    if ending == "protocol":
        return Failed(
            "The model process sent something unreadable and was ended (internal protocol error).",
            AGAIN,
            detail,
        )
    if ending == "cancelled":
        return Failed("The model process was restarted to stop it.", AGAIN, detail)
    if ending == "hung":
        return Failed("The model process no longer answered and was ended.", AGAIN, detail)
    if ending:
        return Failed("The model was unloaded while it worked.", AGAIN, detail)
    if code == POISONED:
        return Failed(
            "The GPU reported an error and the model process had to end.",
            f"{AGAIN} If it happens again, restart the computer.",
            detail,
        )
    if code == RECYCLED:
        return Failed(
            "The model process was restarted, since memory did not come back.", AGAIN, detail
        )
    if code == -9 and low_ram:
        return Failed(
            "The system ended the model process, since memory ran out.",
            "Close other programs or choose a smaller model, then send it again.",
            detail,
            out_of_memory=True,
        )
    if code in (-9, -15, 1) and not tail.strip():
        return Failed("The model process ended unexpectedly (killed from outside).", AGAIN, detail)
    if code in (-4, -6, -7, -8, -11, 139, 0xC0000005 - 2**32, 0xC0000005):
        return Failed("The model process crashed in native code.", AGAIN, detail)
    if code == -9:
        return Failed("The model process ended unexpectedly (killed from outside).", AGAIN, detail)
    return Failed(f"The model process ended unexpectedly (exit code {code}).", AGAIN, detail)
