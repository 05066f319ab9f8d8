"""The page's side of jobs: make, start, watch, pause, stop, resume, queue, rename, delete.

The folders in HOME/jobs are the truth; nothing here is needed for a job to go on, and another page
finds them all again. Every method is a few small reads or one small write, made for the event loop,
unless it says "for a thread".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import sys
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import psutil

from backends.base import Refused
from backends.runtime import checkpoints, fetching, run_card, snapshots
from backends.runtime.disk import read_json, read_lines, write_json
from backends.runtime.job_spec import GRANT, understand, with_hashes, with_places
from backends.runtime.job_state import JobState, read_state
from backends.runtime.process import (
    ask_to_end,
    child_environment,
    is_alive,
    kill_tree,
    reap,
    start_detached,
)
from backends.runtime.snapshots import Snapshot

LOG = logging.getLogger("werkbank.jobs")
ID = re.compile(r"\d{8}-\d{6}(-[a-z0-9]+)*")
TRASH, QUEUE = ".trash", "queue.json"
DAY = 86_400.0  # seconds that a deleted job can come back
TICK = 1.0  # seconds between two looks at the queue and at what is to stop
ASKED, TERMINATED = 60.0, 15.0  # seconds: from the wish to SIGTERM, from there to the kill
STEPS_WAITED = 3  # steps of this job, where those take longer than that


class Jobs:
    """All jobs of a home. One object per page; `watch` is its task while the page lives."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "jobs"
        self._busy = threading.RLock()
        self._specs: dict[str, dict[str, Any]] = {}  # written once, so read once
        self._children: dict[str, int] = {}  # held only to be reaped
        self._stopping: dict[str, float] = {}  # by id, monotonic seconds
        self._terminated: set[int] = set()  # processes
        self.grants: dict[str, int] = {}  # by id, bytes of the GPU that it may take when it starts

    # Making

    def create(self, spec: dict[str, Any], *, key: str = "", beside: Path | None = None) -> str:
        """Make a job and return its id. For a thread: the dataset is hashed.

        A second call with the same `key` returns the job of the first. A relative dataset counts
        from `beside`. Raises Refused, or ValueError in sentences, with nothing made.
        """
        with self._busy:
            if key and (there := self._by_key(key)):
                return there
        spec = with_places(spec, beside or self.home)
        understand(spec, self.folder)
        # A second for each gigabyte, in which every other job can be looked at, started, stopped.
        whole = {**with_hashes(spec), "key": key, "created": time.time()}
        with self._busy:
            if key and (there := self._by_key(key)):  # made meanwhile by the other click
                return there
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            making = self.folder / f".making-{secrets.token_hex(4)}"
            making.mkdir()
            try:
                write_json(making / "spec.json", whole, durable=True)
                return self._settle(making, str(spec.get("name") or spec.get("method")))
            except OSError:
                shutil.rmtree(making, ignore_errors=True)
                raise

    def _settle(self, making: Path, name: str) -> str:
        plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore")
        slug = re.sub(r"[^a-z0-9]+", "-", plain.decode().lower()).strip("-")[:40].strip("-")
        stem = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + (f"-{slug}" if slug else "")
        place, number = self.folder / stem, 2
        while place.exists() or (self.folder / TRASH / place.name).exists():
            place, number = self.folder / f"{stem}-{number}", number + 1
        os.rename(making, place)
        return place.name

    def _by_key(self, key: str) -> str:
        return next((id for id in self._ids() if self.spec(id).get("key") == key), "")

    # Looking

    def path(self, id: str) -> Path:
        """The folder of a job. Raises Refused where there is none of that name."""
        folder = self.folder / id
        if not ID.fullmatch(id) or not (folder / "spec.json").is_file():
            raise Refused("There is no such job.", "It may have been deleted: look at the list.")
        return folder

    def spec(self, id: str) -> dict[str, Any]:
        """What the job was made with."""
        if id not in self._specs:
            self._specs[id] = read_json(self.path(id) / "spec.json")
        return self._specs[id]

    def state(self, id: str) -> JobState:
        """How the job stands now, by its files and its lock."""
        folder = self.path(id)
        if id in self._children and reap(self._children[id]):
            self._children.pop(id, None)
        waiting = self.queue()
        return read_state(folder, self.spec(id), waiting.index(id) + 1 if id in waiting else 0)

    def listed(self) -> list[JobState]:
        """All jobs, the newest first. About 0.1 ms each."""
        found = []
        for id in reversed(self._ids()):
            with contextlib.suppress(Refused):  # deleted meanwhile
                found.append(self.state(id))
        return found

    def health(self) -> list[dict[str, Any]]:
        """What /healthz says of each. For a thread, since there may be hundreds."""
        keys = ("id", "name", "task", "method", "status", "step", "total", "pid", "position")
        return [{key: getattr(state, key) for key in keys} for state in self.listed()]

    def _ids(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in os.scandir(self.folder) if ID.fullmatch(entry.name))
        return sorted(name for name in names if (self.folder / name / "spec.json").is_file())

    def metrics(self, id: str, since: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The curve from byte `since` of its file on, by step, and where to go on reading.

        After a resume the later line of a step counts, also over one of an earlier call.
        """
        found, then = read_lines(self.path(id) / "metrics.jsonl", since)
        by_step = {line["step"]: line for line in found if isinstance(line.get("step"), int)}
        return [by_step[step] for step in sorted(by_step)], then

    def samples(self, id: str, since: int = 0) -> tuple[list[dict[str, Any]], int]:
        """What the pinned prompts answered, from byte `since` on, and where to go on reading."""
        return read_lines(self.path(id) / "samples.jsonl", since)

    def snapshots(self, id: str) -> list[Snapshot]:
        """Its checkpoints, the oldest first. A look at each file's size, none at its contents."""
        return snapshots.listed(self.path(id))

    def keep_snapshot(self, id: str, step: int, keep: bool = True) -> None:
        """Whether this one stays, however many come after it. Raises Refused where it is gone."""
        with self._busy:
            snapshots.pin(self.path(id), step, keep)

    def run_card(self, id: str) -> str:
        """The job as a page of Markdown, with its spec to run again. For a thread."""
        state = self.state(id)
        return run_card.written(self.path(id), state.name, state.status)

    def disk_bytes(self, id: str) -> int:
        """The bytes of all files of the job. For a thread."""
        return checkpoints.size_of(self.path(id))

    # Running

    def start(self, id: str) -> JobState:
        """Start it, or go on with it; nothing happens to one that runs. Raises Refused for a
        finished one."""
        with self._busy:
            state = self.state(id)
            if state.live:
                return state
            if state.status == "finished":
                raise Refused("This job is finished.", "Run it again as a new one.")
            self._unqueue(id)
            folder = self.prepare(id)
            words = [sys.executable, "-m", "backends.train", str(folder)]
            with (folder / "log.txt").open("ab") as log:
                pid = start_detached(words, self.environment(id), log)
            self._children[id] = pid
            with contextlib.suppress(psutil.NoSuchProcess):
                # The process itself writes this file from now on, where it was quicker than we.
                created = psutil.Process(pid).create_time()
                said = read_json(folder / "state.json")
                if said.get("pid") != pid:
                    mine = {"status": "starting", "pid": pid, "create_time": created}
                    write_json(folder / "state.json", {**said, **mine, "updated": time.time()})
            return self.state(id)

    resume = start

    def prepare(self, id: str) -> Path:
        """Put away what an earlier run was told. Returns the folder, absolute."""
        folder = self.path(id).resolve()
        (folder / "control.json").unlink(missing_ok=True)
        (folder / "exit.json").unlink(missing_ok=True)
        self._stopping.pop(id, None)
        return folder

    def environment(self, id: str) -> dict[str, str]:
        """That of a worker; its temporary folder is its own, since the page empties the other."""
        temp = self.path(id).resolve() / "tmp"
        temp.mkdir(exist_ok=True, mode=0o700)
        more = {"WERKBANK_HOME": str(self.home.resolve())}
        if str(self.spec(id).get("dataset", "")).startswith("hub:"):
            more |= fetching.way_to_the_hub()
        if grant := self.grants.get(id):
            more[GRANT] = str(grant)
        return child_environment(temp, more)

    def pause(self, id: str) -> None:
        """Checkpoint, free the GPU, wait for Resume. One that waits leaves the queue."""
        self._wish(id, {"pause": True})

    def stop(self, id: str) -> None:
        """Checkpoint and end. `watch` ends what has not ended in 75 s."""
        self._wish(id, {"stop": "checkpoint"})

    def _wish(self, id: str, wish: dict[str, Any]) -> None:
        self._unqueue(id)
        if self.state(id).live:
            write_json(self.path(id) / "control.json", wish)

    # The queue

    def queue(self) -> list[str]:
        """Those that wait, the next one first."""
        said = read_json(self.folder / QUEUE).get("waiting")
        return [id for id in said if isinstance(id, str)] if isinstance(said, list) else []

    def enqueue(self, id: str) -> None:
        """Start it when all before it are done. Nothing happens to one that runs or waits."""
        with self._busy:
            state = self.state(id)
            if state.status == "finished":
                raise Refused("This job is finished.", "Run it again as a new one.")
            if not state.live and not state.position:
                self._keep([*self.queue(), id])

    def move(self, id: str, position: int) -> None:
        """Put a waiting job at `position`, 1 being next."""
        with self._busy:
            waiting = self.queue()
            if id in waiting:
                waiting.remove(id)
                waiting.insert(max(0, position - 1), id)
                self._keep(waiting)

    def _unqueue(self, id: str) -> None:
        with self._busy:
            waiting = self.queue()
            if id in waiting:
                self._keep([other for other in waiting if other != id])

    def give_up(self, id: str, why: Refused) -> None:
        """It cannot start: it leaves the queue as failed, `why` said, and can be resumed."""
        with self._busy:
            self._unqueue(id)
            with contextlib.suppress(Refused):  # its folder is gone
                if not self.state(id).live:
                    said = {"message": why.message, "hint": why.hint, "detail": why.detail}
                    end = {"status": "failed", **said, "seconds": 0.0, "usage": {}}
                    write_json(self.path(id) / "exit.json", end, durable=True)

    def _keep(self, waiting: list[str]) -> None:
        write_json(self.folder / QUEUE, {"waiting": waiting}, durable=True)

    async def watch(self) -> None:
        """The task of a living page: the queue goes on, what will not stop is ended."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(TICK)

    def _look(self) -> None:
        try:
            self.tick()
        except OSError as error:  # a full disk: the next look may find room
            LOG.warning("the jobs could not be looked after: %s", error.strerror)

    def tick(self, start: bool = True) -> list[JobState]:
        """One look: start the next one where none runs (unless somebody else does), end what was
        to stop, empty the trash. Returns those that ran."""
        live = [state for state in self.listed() if state.live]
        for state in live:
            self._see_to_the_end(state)
        with self._busy:
            for id in [] if live or not start else self.queue():
                try:
                    self.start(id)
                    break
                except Refused:
                    self._unqueue(id)
        self.empty_trash()
        return live

    def _see_to_the_end(self, state: JobState) -> None:
        """SIGTERM a minute after the wish to stop, the kill a quarter of one later."""
        folder = self.folder / state.id
        if "stop" not in read_json(folder / "control.json"):
            return
        first = self._stopping.setdefault(state.id, time.monotonic())
        since = time.monotonic() - first
        said = read_json(folder / "state.json")
        pid, created = int(said.get("pid", 0)), float(said.get("create_time", 0))
        # A step that takes longer than that is no reason to lose it.
        left, steps = said.get("eta_seconds"), said.get("total", 0) - said.get("step", 0)
        asked = max(ASKED, STEPS_WAITED * left / steps) if left and steps > 0 else ASKED
        if since < asked or not is_alive(pid, created):
            return
        if since >= asked + TERMINATED:
            kill_tree(pid)
        elif pid not in self._terminated:
            self._terminated.add(pid)
            ask_to_end(pid)

    # Keeping house

    def rename(self, id: str, name: str) -> None:
        """Call it otherwise; the folder keeps its name."""
        name = " ".join(name.split())[:80]
        if not name:
            raise Refused("A job needs a name.", "Type one.")
        write_json(self.path(id) / "name.json", {"name": name})

    def delete(self, id: str) -> None:
        """Put it into the trash, for a day. Raises Refused for one that runs."""
        with self._busy:
            if self.state(id).live:
                raise Refused("This job is running.", "Stop it first, then delete it.")
            self._unqueue(id)
            trash = self.folder / TRASH
            trash.mkdir(exist_ok=True)
            write_json(self.path(id) / "deleted.json", {"at": time.time()})
            os.rename(self.path(id), trash / id)
            self._specs.pop(id, None)

    def deleted(self) -> list[dict[str, Any]]:
        """Those that can come back, the latest deleted first: id, name, and `at`, in seconds of
        the clock."""
        trash, found = self.folder / TRASH, []
        for folder in trash.iterdir() if trash.is_dir() else ():
            at = read_json(folder / "deleted.json").get("at")
            if at and ID.fullmatch(folder.name) and (folder / "spec.json").is_file():
                spec = read_json(folder / "spec.json")
                name = read_json(folder / "name.json").get("name") or spec.get("name")
                found.append({"id": folder.name, "name": str(name or folder.name), "at": at})
        return sorted(found, key=lambda one: float(one["at"]), reverse=True)

    def undo_delete(self, id: str) -> None:
        """Bring it back. Raises Refused where it is gone for good."""
        there = self.folder / TRASH / id
        if not ID.fullmatch(id) or not there.is_dir():
            raise Refused("This job is gone for good.", "Deleted jobs are kept for a day.")
        os.rename(there, self.folder / id)
        (self.folder / id / "deleted.json").unlink(missing_ok=True)

    def empty_trash(self, older: float = DAY) -> None:
        """Delete for good what has been in the trash for longer than `older` seconds."""
        trash = self.folder / TRASH
        for folder in trash.iterdir() if trash.is_dir() else ():
            if time.time() - float(read_json(folder / "deleted.json").get("at", 0)) > older:
                shutil.rmtree(folder, ignore_errors=True)
