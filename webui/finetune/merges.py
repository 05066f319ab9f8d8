"""Adapters that are being merged into their bases: they go on when no page watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.runtime.merging import Merged, merge

LOOK = 0.3  # seconds between two looks of a page


@dataclass
class Merging:
    """One under way, or just ended."""

    ref: ModelRef
    progress: Progress = field(default_factory=lambda: Progress(0, 0, "Reading"))
    task: asyncio.Task[Merged] | None = None

    async def watch(self) -> AsyncGenerator[Progress | Merged, None]:
        """How far it is, at last what was made. Raises Refused, as where it was cancelled."""
        assert self.task
        while not self.task.done():
            yield self.progress
            await asyncio.wait({self.task}, timeout=LOOK)
        if self.task.cancelled():
            raise Refused("The merging was cancelled.", "Nothing of it is left.")
        yield self.task.result()


class Merges:
    """At most one for each adapter."""

    def __init__(self) -> None:
        self.running: dict[ModelRef, Merging] = {}

    def begin(self, ref: ModelRef, name: str) -> Merging:
        """Merge the adapter `ref`, or join the merging of it. In the event loop."""
        if ref in self.running:
            return self.running[ref]
        one = Merging(ref)

        def report(progress: Progress) -> None:
            one.progress = progress

        one.task = asyncio.get_running_loop().create_task(merge(ref, name, report))
        self.running[ref] = one
        one.task.add_done_callback(lambda task: self._ended(ref, task))
        return one

    def _ended(self, ref: ModelRef, task: asyncio.Task[Merged]) -> None:
        self.running.pop(ref, None)
        if not task.cancelled():
            task.exception()  # heard, though nobody watches

    def running_refs(self) -> list[ModelRef]:
        """The adapters that are being merged."""
        return list(self.running)

    def cancel(self, ref: ModelRef) -> None:
        """End it; what was written is removed."""
        if (one := self.running.get(ref)) and one.task:
            one.task.cancel()

    async def close(self) -> None:
        """End all of them, and wait until nothing of them is left."""
        tasks = [one.task for one in self.running.values() if one.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
