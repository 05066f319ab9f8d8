"""The queue of pictures: one request after another, through `Bench.generate`, so that the ledger
and the gate hold for it as for everything else.

It belongs to the server. A handler only watches; a page that goes away leaves it running, and
another page finds it. Entries lie on the disk (webui/image/entry.py). After a restart what was
running is marked interrupted and never drawn again by itself; then nothing else starts by itself
either, since the one that was running may be why Werkbank ended.

All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.image.params import ImageParams
from backends.models.gguf_copy import FULL_DISK
from backends.params import read
from webui.image.drawing import Drawing, Generate
from webui.image.entry import Entry, Folders, Run, new_id
from webui.image.gallery import Gallery
from webui.image.grid import Grid
from webui.image.variations import with_seed

if TYPE_CHECKING:
    from backends.models.library import Listed

LOG = logging.getLogger(__name__)
MOST = 500  # entries that wait
KEPT = 50  # entries that are over and still shown
MOST_BATCHES = 1000
TRASH_EVERY = 3600.0  # seconds
PACE, IDLE = 0.1, 1.0  # seconds between two looks of a watcher: at least, and at most
FILES = ("image", "mask", "controls", "folder", "name")  # settings that name files
INTERRUPTED = "Werkbank ended while this was being drawn. What was finished is in the gallery."
HELD = "Werkbank ended while a picture was being drawn, so nothing goes on by itself."


@dataclass(frozen=True)
class Seen:
    """What a watcher is told: the entries in their order, newest state, and whether it is paused
    (`why` says so in a sentence, where it was not the user)."""

    entries: tuple[Entry, ...]
    paused: bool
    why: str
    notice: str

    @property
    def running(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.state == "running"), None)

    @property
    def idle(self) -> bool:
        """Nothing is drawn, and nothing will be by itself."""
        waits = any(entry.state == "waiting" for entry in self.entries)
        return self.running is None and (self.paused or not waits)


class PictureQueue:
    """`find` gives the model of a reference (Refused where there is none); `allowed` are the
    folders in which pictures to begin with may lie."""

    def __init__(
        self,
        gallery: Gallery,
        find: Callable[[str], Listed],
        generate: Generate,
        allowed: Iterable[Path] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gallery, self.find, self.generate, self.clock = gallery, find, generate, clock
        self.folders = Folders(gallery.files.folder / "queue")
        self.allowed = [gallery.files.folder, *allowed]
        self.entries: list[Entry] = []
        self.paused, self.why, self.notice = False, "", ""
        self._working: asyncio.Task[None] | None = None
        self._drawing: Drawing | None = None
        self._version, self._changed = 0, asyncio.Event()
        self._emptied = time.monotonic()
        self._wake = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Load what was left, and begin. Never raises: then `notice` says why."""
        try:
            self.entries, self.paused, self.why = await asyncio.to_thread(self.folders.load)
        except OSError as error:
            self.notice = self.sentence(error).message
        for entry in self.entries:
            if entry.state == "running":
                entry.end("interrupted", self.clock(), INTERRUPTED)
                self._save(entry)
                if any(other.state == "waiting" for other in self.entries):
                    self.paused, self.why = True, HELD
                self._save_order()
        self._working = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End what is drawn; it reads as interrupted at the next start."""
        if self._working:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    # Asking

    async def add(
        self,
        model: str,
        params: Mapping[str, Any],
        *,
        options: dict[str, Any] | None = None,
        batches: int = 1,
        page: str = "",
        grid: Grid | None = None,
        changes: Iterable[Mapping[str, Any]] = (),
    ) -> Entry:
        """Put a request at the end.

        params: what ImageParams takes; `folder` and `name` are settled here
        batches: how many times, each with the seeds that follow
        changes: instead of that, a run for each, with these settings changed (variations)
        grid: instead of both, a run for each cell, and a sheet of all at the end

        Raises Refused for settings that cannot be drawn, a model that is not here, a full queue,
        and where the disk refuses.
        """
        if sum(entry.state == "waiting" for entry in self.entries) >= MOST:
            raise Refused(f"{MOST} requests wait already.", "Wait, or delete some.")
        listed = self.find(model)
        entry = Entry(new_id(), str(listed.ref), listed.title, options, dict(params), page=page)
        if grid:
            params = with_seed(params)  # one for all its pictures
        entry.added = self.clock()
        entry.runs = self._runs(params, batches, list(changes), grid)
        entry.grid = asdict(grid) if grid else None
        await asyncio.to_thread(self._settle_in, entry, params)
        self.entries.append(entry)
        self._save_order()
        self._bump()
        return entry

    def _runs(
        self,
        params: Mapping[str, Any],
        batches: int,
        changes: list[Mapping[str, Any]],
        grid: Grid | None,
    ) -> list[Run]:
        if not 1 <= batches <= MOST_BATCHES:
            raise Refused(f"{batches} batches cannot be drawn.", f"Take 1 to {MOST_BATCHES}.")
        if grid:
            cells = grid.cells(params)
            for model in {cell.model for cell in cells if cell.model}:
                self.find(model)
            return [Run(cell.change, cell.model, cell.place) for cell in cells]
        seed, each = int(params.get("seed", -1)), int(params.get("images", 1))
        runs = [Run(_differing(change, params)) for change in changes] or [
            Run({"seed": (seed + n * each) % 2**32} if seed >= 0 else {}) for n in range(batches)
        ]
        for run in runs:
            try:
                read(ImageParams, {**params, **run.change})
            except ValueError as error:
                happened, _, mend = str(error).partition(". ")
                raise Refused(f"{happened.rstrip('.')}.", mend) from error
        return runs

    def get(self, id: str) -> Entry:
        """Raises Refused where there is none."""
        for entry in self.entries:
            if entry.id == id:
                return entry
        raise Refused("This request is not in the queue any more.", "Reload the page.")

    def move(self, id: str, before: str = "") -> None:
        """Stand before that one; at the end without one. Only what waits moves."""
        entry = self.get(id)
        if entry.state != "waiting" or before == id:
            return
        self.entries.remove(entry)
        at = next((n for n, e in enumerate(self.entries) if e.id == before), len(self.entries))
        self.entries.insert(at, entry)
        self._save_order()
        self._bump()

    def pause(self) -> None:
        """Nothing new begins; the batch that is drawn comes to its end."""
        self._set_paused(True)

    def resume(self) -> None:
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        self.paused, self.why = paused, ""
        self._save_order()
        self._bump()

    def cancel(self, id: str) -> None:
        """End it; what is drawn already stays. A second call changes nothing."""
        entry = self.get(id)
        if entry.state == "waiting":
            entry.end("cancelled", self.clock())
            self._save(entry)
        elif self._drawing and self._drawing.entry is entry:
            self._drawing.cancel()
        self._bump()

    async def retry(self, id: str) -> Entry:
        """What is left of it goes to the end of the queue; all of it where it was done.

        Raises Refused as `add` does.
        """
        entry = self.get(id)
        if not entry.over:
            return entry
        if entry.state != "done" or any(run.failed for run in entry.runs):
            for run in entry.runs:
                run.failed = ""
            entry.state, entry.note, entry.ended = "waiting", "", 0.0
            self.entries.remove(entry)
            self.entries.append(entry)
            self._save(entry)
        else:
            entry = await self._again(entry)
        self._save_order()
        self._bump()
        return entry

    async def _again(self, entry: Entry) -> Entry:
        """The same request as a new one."""
        runs = [Run(run.change, run.model, run.place) for run in entry.runs]
        again = replace(entry, id=new_id(), runs=runs, state="waiting", note="", sheet="",
                        added=self.clock(), began=0.0, ended=0.0)  # fmt: skip
        await asyncio.to_thread(self._settle_in, again, entry.params)
        self.entries.append(again)
        return again

    def _settle_in(self, entry: Entry, params: Mapping[str, Any]) -> None:
        """Its folder, with all that it needs, whole or not at all. Raises Refused."""
        try:
            entry.params = self.folders.own(entry.id, params, self.allowed)
            self.folders.save(entry, durable=True)
        except (OSError, Refused) as error:
            self.folders.delete(entry.id)
            raise (self.sentence(error) if isinstance(error, OSError) else error) from error

    def delete(self, id: str) -> None:
        """Out of the list; its pictures stay. One that is drawn is cancelled first."""
        entry = self.get(id)
        if entry.state == "running":
            self.cancel(id)
        self.entries.remove(entry)
        self.folders.delete(id)
        self._save_order()
        self._bump()

    def clear(self) -> int:
        """Take all that is over out of the list. Returns how many."""
        over = [entry for entry in self.entries if entry.over]
        for entry in over:
            self.delete(entry.id)
        return len(over)

    # Watching

    @property
    def seen(self) -> Seen:
        return Seen(tuple(self.entries), self.paused, self.why, self.notice)

    async def watch(self, *, until_idle: bool = False) -> AsyncGenerator[Seen, None]:
        """The queue now, and each time it changed, at a pace that a browser can draw.

        At least once in `IDLE` seconds even so: only a handler that yields is closed when its
        browser is gone. until_idle: ends once nothing is drawn and nothing will be.
        """
        while True:
            version, seen = self._version, self.seen
            yield seen
            if self._version == version:
                if until_idle and self.seen.idle:
                    return
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE):
                        await self._changed.wait()
            await asyncio.sleep(PACE)

    # Working

    async def _work(self) -> None:
        await asyncio.to_thread(self.gallery.settle)
        while True:
            self._wake.clear()
            entry = next((e for e in self.entries if e.state == "waiting"), None)
            if entry is None or self.paused:
                await self._wake.wait()
                continue
            self._drawing = Drawing(self, entry)
            try:
                await self._drawing.over()
            finally:
                self._drawing = None
            self._forget_old()
            await self._empty_trash()

    async def _empty_trash(self) -> None:
        """What was deleted a day ago goes, looked at once an hour while something is drawn."""
        if time.monotonic() - self._emptied < TRASH_EVERY:
            return
        self._emptied = time.monotonic()
        try:
            await asyncio.to_thread(self.gallery.empty_trash)
        except (Refused, OSError) as error:  # the next start says it
            LOG.warning("the trash of the pictures was not emptied: %s", error)

    def changed(self, entry: Entry, *, save: bool = False) -> None:
        """Said by what draws an entry: watchers look again; `save` where it counts."""
        if save:
            self._save(entry)
        self._bump()

    # Saving

    def _forget_old(self) -> None:
        over = sorted((e for e in self.entries if e.over), key=lambda entry: -entry.ended)
        for entry in over[KEPT:]:
            self.delete(entry.id)

    def _save(self, entry: Entry) -> None:
        """Where the disk refuses, the queue goes on, and says so."""
        if entry in self.entries:  # else it was deleted meanwhile
            self._saving(lambda: self.folders.save(entry))

    def _save_order(self) -> None:
        self._saving(lambda: self.folders.save_order(self.entries, self.paused, self.why))

    def _saving(self, deed: Callable[[], None]) -> None:
        try:
            deed()
            self.notice = ""
        except OSError as error:
            self.notice = str(self.sentence(error))

    def sentence(self, error: OSError) -> Refused:
        if error.errno in FULL_DISK:
            return Refused(
                "The disk is full, so the queue was not saved.",
                f"Free some space for {self.folders.folder}.",
            )
        return Refused(
            f"The queue of pictures cannot be saved ({error.strerror or error}).",
            f"Check who may write in {self.folders.folder}.",
        )

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._wake.set()


def _differing(change: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """What a run really changes; files are the entry's own and stay."""
    return {
        name: value
        for name, value in change.items()
        if name not in FILES and (name not in params or params[name] != value)
    }
