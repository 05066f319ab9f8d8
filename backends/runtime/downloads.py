"""Downloads from the hub as the page sees them: a queue, one process at a time, kept on the disk.

Each is a file HOME/downloads/<id>.json, so that a page that was killed finds them again. The
process (`backends/models/fetch.py`) ends with the page; what came stays in the hub's cache, and
the next one goes on from there. Lives in the server's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from backends.base import ModelRef, Refused
from backends.models import hub_token, library
from backends.models.hub import check_name
from backends.models.hub_store import RepoStore
from backends.models.repo import What
from backends.runtime import fetching, frames
from backends.runtime.fetching import GRACE
from backends.runtime.process import CHECKOUT, kill_tree, own_temp, start_flags

State = Literal["waiting", "running", "paused", "failed", "done"]
LOG = logging.getLogger("werkbank.downloads")
TAIL_BYTES = 4000
WRITE_EVERY = 1.0  # seconds, while bytes come
CLOSED = "Werkbank was closed while this was being downloaded."
GO_ON = "Go on with it: what has come is kept."


@dataclass(frozen=True)
class Download:
    """One download. Bytes and bytes a second; `bytes` is 0 until the hub was asked.

    commit, ref   which version was taken, and how the model is named when it is here
    note          what it is doing, where that is not simply downloading
    message, hint two sentences on why it is paused or failed, and what to do; else empty
    shared        its version has other files here, of another form or program: they are to stay
    kind          what failed, for code: `hub_http.Kind`, or "" (gated: offer the licence's page)
    what          a model, or a dataset
    """

    id: str
    name: str
    revision: str
    choice: str
    title: str
    bytes: int = 0
    state: State = "waiting"
    done: int = 0
    commit: str = ""
    ref: str = ""
    speed: int = 0
    file: str = ""
    note: str = ""
    message: str = ""
    hint: str = ""
    kind: str = ""
    shared: bool = False
    what: What = "model"

    @property
    def seconds_left(self) -> float | None:
        """At the speed of the last seconds; None where nothing moves."""
        moving = self.state == "running" and self.speed > 0 and self.bytes
        return max(self.bytes - self.done, 0) / self.speed if moving else None

    @property
    def open(self) -> bool:
        """Whether there is something to do yet: all but the finished ones."""
        return self.state != "done"


class Downloads:
    """The queue. Call everything from the server's loop; `close` when it ends."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "downloads"
        self.version = 0  # grows with every change
        self._all: dict[str, Download] = {}
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._current = ""
        self._closing = False
        self._written = 0.0  # monotonic seconds
        self._last: dict[str, Any] | None = None  # how the one that runs ended, in its own words
        self._stopped: str | None = None  # why the page ended the one that runs; "": a person did
        self._read_back()

    # What the page asks for

    def listed(self) -> list[Download]:
        """All of them, in the order in which they were asked for."""
        return list(self._all.values())

    def get(self, id: str) -> Download:
        if id not in self._all:
            raise Refused("This download is not in the list any more.", "Start it again.")
        return self._all[id]

    def add(
        self, name: str, choice: str = "", revision: str = "main", size: int = 0,
        what: What = "model",
    ) -> Download:  # fmt: skip
        """Download a model or a dataset from the hub: now, or when those before it are done.

        name: owner/name. choice: a `repo.Choice.id`, "" for the first. size: its bytes, where they
        are known, to be shown meanwhile. One that is in the list already goes on instead. Refused
        for what is no name.
        """
        check_name(name, revision, what)
        asked = (what, name, revision)
        for download in self._all.values():
            if (download.what, download.name, download.revision) == asked and download.open:
                if choice in ("", download.choice):
                    return self.resume(download.id)
        title = f"{name} ({choice})" if choice.endswith((".gguf", ".safetensors")) else name
        id = f"{self._next_number():04}-{secrets.token_hex(3)}"
        self._put(Download(id, name, revision, choice, title, bytes=size, what=what))
        self._run()
        return self._all[id]

    def resume(self, id: str) -> Download:
        """Go on with one that is paused or failed: at the end of the queue."""
        download = self.get(id)
        if download.state in ("paused", "failed"):
            # The version that it began with is gone, or not what it was: the one of today is taken.
            commit = "" if download.kind in ("revision", "changed", "missing") else download.commit
            self._all.pop(id)
            self._put(_quiet(replace(download, state="waiting", commit=commit)))
            self._run()
        return self._all[id]

    async def pause(self, id: str) -> Download:
        """Stop it; what has come stays. Nothing happens to one that is not under way."""
        if self.get(id).state == "waiting":
            self._put(_quiet(replace(self._all[id], state="paused")))
        elif self._current == id:
            await self._stop("")
        return self._all.get(id) or self.get(id)

    async def cancel(self, id: str, *, remove: bool = True) -> int:
        """Take it off the list; the bytes that came back, where what had come is to be removed.

        One that is done keeps its files: `usage.delete` removes a model.
        """
        await self.pause(id)
        download = self._all.pop(id)
        (self.folder / f"{id}.json").unlink(missing_ok=True)
        self._tell()
        same = (download.what, download.name)
        others = any((d.what, d.name) == same and d.open for d in self._all.values())
        if not remove or others or download.state == "done":
            return 0
        store = RepoStore(library.hub_cache(), download.name, download.what)
        mine = "" if download.shared else download.commit
        return await asyncio.to_thread(store.drop_unfinished, mine)

    def forget_done(self, what: What = "model") -> None:
        """Take those that are done off the list. What came stays."""
        for download in self.listed():
            if not download.open and download.what == what:
                self.forget(download.id)

    def forget(self, id: str) -> None:
        """Take one that is done off the list."""
        if id in self._all and not self._all[id].open:
            self._all.pop(id)
            (self.folder / f"{id}.json").unlink(missing_ok=True)
            self._tell()

    async def follow(self, at_least: float = 1.0) -> AsyncIterator[list[Download]]:
        """The list now, at each change, and every `at_least` seconds. Never ends by itself."""
        while True:
            seen = self.version
            yield self.listed()
            if seen == self.version:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), at_least)

    async def close(self) -> None:
        """The page ends: the one that runs is found again as paused."""
        self._closing = True
        await self._stop(CLOSED)
        if self._runner:
            await self._runner

    # The queue

    def _run(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while not self._closing:
            waiting = next((d for d in self._all.values() if d.state == "waiting"), None)
            if waiting is None:
                return
            self._current, self._stopped, self._last = waiting.id, None, None
            self._put(_quiet(replace(waiting, state="running")))
            try:
                await self._one(waiting.id)
            except Exception as error:  # the queue goes on with the others
                LOG.exception("a download failed")
                self._fail("", f"The download could not be run ({type(error).__name__}).", GO_ON)
            self._current = ""

    async def _one(self, id: str) -> None:
        download = self._all[id]
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "backends.models.fetch",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=frames.TO_PAGE_BYTES,
            env=fetching.environment(own_temp(self.home)),
            cwd=CHECKOUT,
            **start_flags(),
        )  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        keys = ("what", "name", "revision", "commit", "choice")
        asked = {key: getattr(download, key) for key in keys}
        process.stdin.write(frames.encode({"id": 1, **asked}, frames.TO_WORKER_BYTES))
        tail = asyncio.create_task(_tail(process.stderr))
        try:
            while line := await process.stdout.readline():
                self._take(frames.decode(line))
        except (frames.BrokenFrame, ValueError, KeyError, TypeError, ConnectionError):
            LOG.warning("a download said something that is no frame")
        finally:
            await _end(process)
            self._process = None
        detail = await tail
        if token := hub_token.read():
            detail = detail.replace(token, "***")  # it says nothing of it; a library may one day
        if self._last and self._last["say"] == "done":
            self._settle("done", done=self._all[id].bytes, message="", hint="")
        elif self._last:
            self._fail(*(str(self._last.get(key, "")) for key in ("kind", "message", "hint")))
        elif self._stopped is None:
            LOG.error("a download ended by itself (%s): %s", process.returncode, detail)
            self._fail("", "The process that downloads ended unexpectedly.", GO_ON)
        else:
            hint = GO_ON if self._stopped else ""
            self._settle("paused", message=self._stopped, hint=hint)

    def _take(self, frame: dict[str, Any]) -> None:
        """One line of the process. It opens nothing that it downloads, and is believed no more
        than it must be: what is no number or text raises."""
        say, download = frame.get("say"), self._all[self._current]
        if say == "plan":
            self._put(
                replace(
                    download,
                    bytes=int(frame["bytes"]),
                    done=int(frame["done"]),
                    commit=str(frame["commit"]),
                    choice=str(frame["choice"]),
                    ref=str(ModelRef.parse(str(frame["ref"]))),
                    shared=bool(frame["shared"]),
                )
            )
        elif say == "progress":
            moved = replace(
                download,
                done=int(frame["done"]),
                speed=int(frame["speed"]),
                file=str(frame["file"]),
                note=str(frame["note"]),
            )
            if time.monotonic() - self._written > WRITE_EVERY:
                self._put(moved)
            else:
                self._all[self._current] = moved
                self._tell()
        elif say in ("done", "failed"):
            self._last = frame

    def _fail(self, kind: str, message: str, hint: str = "") -> None:
        # With a full disk nothing is wrong with the download: it waits for room.
        state: State = "paused" if kind == "full" else "failed"
        self._settle(state, kind=kind, message=message, hint=hint)

    def _settle(self, state: State, **values: Any) -> None:
        download = self._all[self._current]
        self._put(replace(download, state=state, speed=0, note="", file="", **values))

    async def _stop(self, why: str) -> None:
        """End the process of the one that runs, and wait until the queue has taken note."""
        id = self._current
        if not id:
            return
        self._stopped = why
        if self._process and self._process.stdin:
            self._process.stdin.close()
        async with asyncio.timeout(2 * GRACE):
            while self._current == id and self._all[id].state == "running":
                if self._process and self._process.stdin and not self._process.stdin.is_closing():
                    self._process.stdin.close()  # it was only just being started
                await asyncio.sleep(0.02)

    # The disk

    def _put(self, download: Download) -> None:
        """Keep it, in memory and on the disk. With a full disk the one in memory has to do."""
        self._all[download.id] = download
        self._written = time.monotonic()
        file = self.folder / f"{download.id}.json"
        partial = file.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(download), indent=1), encoding="utf-8")
            os.replace(partial, file)
        except OSError as error:
            LOG.warning("the list of downloads cannot be written: %s", error.strerror)
        self._tell()

    def _read_back(self) -> None:
        for file in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            try:
                download = _from_json(json.loads(file.read_text(encoding="utf-8")), file.stem)
            except (OSError, ValueError, TypeError, Refused):
                LOG.warning("%s is no download: it is passed over", file.name)
                continue
            if download.state in ("running", "waiting"):
                download = replace(_quiet(download), state="paused", message=CLOSED, hint=GO_ON)
            self._all[download.id] = download

    def _next_number(self) -> int:
        return max((int(id.partition("-")[0]) for id in self._all), default=0) + 1

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _quiet(download: Download) -> Download:
    """Without what the last attempt said."""
    return replace(download, speed=0, file="", note="", message="", hint="", kind="")


def _from_json(value: dict[str, Any], id: str) -> Download:
    """Raises ValueError, TypeError, Refused for what is none."""
    download = Download(**{f.name: value[f.name] for f in fields(Download) if f.name in value})
    if download.id != id or not re.fullmatch(r"\d+-[0-9a-f]{6}", id):
        raise ValueError("it is called otherwise")
    check_name(download.name, download.revision, download.what)
    known = download.state in get_args(State) and download.what in get_args(What)
    if not known or type(download.bytes) is not int:
        raise ValueError("it makes no sense")
    return download


async def _tail(stream: asyncio.StreamReader) -> str:
    """The end of what the process said on its stderr, read so that it never waits for us."""
    kept = b""
    while piece := await stream.read(65536):
        kept = (kept + piece)[-TAIL_BYTES:]
    return kept.decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """However the reading ended, nothing goes on downloading."""
    if process.stdin:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), GRACE)
    except TimeoutError:
        kill_tree(process.pid)
        await process.wait()
