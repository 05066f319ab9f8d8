"""One entry of the queue while it is drawn: run after run, until its end or a pause."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backends.base import Refused
from backends.events import Artifact, Done, Failed, Notice, Progress
from webui.gate import Busy
from webui.image.entry import Entry, Run, State
from webui.image.sheet import keep_sheet

if TYPE_CHECKING:
    from backends.models.library import Listed
    from backends.runtime.child import Call
    from webui.image.queue import PictureQueue

LOG = logging.getLogger(__name__)
PICTURE, PREVIEW = "image", "preview"  # kinds of artifacts
ELSEWHERE = "This was stopped from elsewhere. Try it again."


class Generate(Protocol):
    """`Bench.generate`."""

    def __call__(
        self,
        listed: Listed,
        params: dict[str, Any],
        visitor: str,
        *,
        options: dict[str, Any] | None = None,
        on_call: Callable[[Call], None] = ...,
    ) -> AsyncGenerator[Any, None]: ...


class Drawing:
    """`entry` is drawn from now on, in a task of its own."""

    def __init__(self, queue: PictureQueue, entry: Entry) -> None:
        self.queue, self.entry = queue, entry
        self.making = queue.gallery.files.making / entry.id
        self.cancelled = self._ending = False
        self._call: Call | None = None
        self._task = asyncio.get_running_loop().create_task(self._draw())

    async def over(self) -> None:
        """Wait for the end. Whoever is cancelled here ends the drawing: then nothing is saved of
        its end, so that it reads as interrupted at the next start."""
        try:
            await asyncio.wait({self._task})
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def cancel(self) -> None:
        """End it at its next step; `over` returns then. A second call changes nothing."""
        if self.cancelled:
            return
        self.cancelled, self.entry.status = True, "Stopping"
        if self._call:
            self._call.cancel()
        elif not self._ending:
            self._task.cancel()

    async def _draw(self) -> None:
        entry = self.entry
        entry.state, entry.note = "running", ""
        entry.began = entry.began or self.queue.clock()
        self.queue.changed(entry, save=True)
        problem = ""
        try:
            await self._runs()
            if entry.grid and not entry.next_run() and not self.cancelled:
                await self._sheet()
        except asyncio.CancelledError:
            if not self.cancelled:
                raise  # the server ends
        except Exception as error:
            LOG.exception("drawing %s", entry.id)
            problem = f"Something went wrong in Werkbank itself ({error}). Try it again."
        finally:
            self._ending = True
            entry.preview = entry.status = ""
            await asyncio.to_thread(shutil.rmtree, self.making, True)
        self._settle(problem)

    async def _runs(self) -> None:
        entry = self.entry
        while (found := entry.next_run()) and not self.queue.paused and not self.cancelled:
            number, run = found
            await self._run(number, run)
            self.queue.changed(entry, save=True)
            if run.failed and not entry.grid:
                return  # the others would fail as this one did

    def _settle(self, problem: str) -> None:
        """What became of it, now that nothing of it is drawn any more."""
        entry = self.entry
        failed = [run.failed for run in entry.runs if run.failed]
        state: State = "done"
        if self.cancelled:
            state = "cancelled"
        elif problem or (failed and not entry.grid) or len(failed) == len(entry.runs):
            state, problem = "failed", problem or failed[0]
        elif entry.next_run():
            entry.state = "waiting"  # paused: the rest comes later
            return self.queue.changed(entry, save=True)
        elif failed:
            problem = f"{len(failed)} of {len(entry.runs)} could not be drawn. {failed[0]}"
        entry.end(state, self.queue.clock(), problem)
        self.queue.changed(entry, save=True)

    async def _run(self, number: int, run: Run) -> None:
        """One batch. What goes wrong is said in `run.failed`."""
        entry, began = self.entry, time.monotonic()
        entry.step = entry.total = 0.0
        files = {"folder": str(self.making), "name": f"run-{number:04d}"}
        try:
            await asyncio.to_thread(self.making.mkdir, 0o700, True, True)
            listed = self.queue.find(run.model or entry.model)
            events = self._events(listed, {**entry.params, **run.change, **files})
            async with contextlib.aclosing(events):
                async for event in events:
                    await self._take(run, event)
        except Refused as refused:
            run.failed = str(refused)
        except OSError as error:
            run.failed = str(self.queue.sentence(error))
        finally:
            self._call = None
            run.seconds += time.monotonic() - began

    async def _events(self, listed: Listed, params: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Those of `generate`; where the waiting room is full, once there is a place."""
        entry = self.entry
        while True:
            events = self.queue.generate(
                listed, params, f"pictures {entry.page}".strip(),
                options=entry.options, on_call=self._begun,
            )  # fmt: skip
            try:
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event
                return
            except Busy as busy:
                entry.status = busy.sentence
                self.queue.changed(entry)
                await asyncio.sleep(busy.retry_after)

    def _begun(self, call: Call) -> None:
        self._call = call
        if self.cancelled:
            call.cancel()

    async def _take(self, run: Run, event: Any) -> None:
        entry = self.entry
        if isinstance(event, Progress):
            entry.step, entry.total, entry.status = event.step, event.total, event.note
        elif isinstance(event, Artifact) and event.kind == PICTURE:
            try:
                picture = await asyncio.to_thread(self.queue.gallery.take, Path(event.path))
                run.pictures.append(picture.id)
            except Refused as refused:
                run.failed = str(refused)
        elif isinstance(event, Artifact) and event.kind == PREVIEW:
            entry.preview, entry.previews = event.path, entry.previews + 1
        elif isinstance(event, Notice):
            if event.message not in entry.note:
                entry.note = f"{entry.note} {event.message}".strip()
        elif isinstance(event, Failed):
            run.failed = "" if self.cancelled else str(event)
        elif isinstance(event, Done):
            run.usage = dict(event.usage)
            run.done = not event.cancelled and not run.failed
            if event.cancelled and not self.cancelled:
                run.failed = ELSEWHERE
        elif hasattr(event, "position"):  # Bench's Waiting
            entry.status = f"Busy: position {event.position}"
        self.queue.changed(entry)

    async def _sheet(self) -> None:
        """The sheet of a grid, in the gallery. What goes wrong with it is a note."""
        entry = self.entry
        entry.status = "Putting the sheet together"
        self.queue.changed(entry)
        try:
            entry.sheet = await asyncio.to_thread(keep_sheet, self.queue.gallery, entry)
        except Refused as refused:
            entry.note = str(refused)
        except OSError as error:
            entry.note = str(self.queue.sentence(error))
