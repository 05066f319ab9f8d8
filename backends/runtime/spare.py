"""The warm spare: a process that has imported what loads wait for, and has not touched the GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from backends import BACKENDS
from backends.runtime.child import Child
from backends.runtime.resident import Resident, process_status

SPARE = "spare"  # its id, among those of the residents
SPARE_SILENT = 5.0  # seconds; an idle process says once a second that it lives
SPARE_RAM_BYTES = 4 * 2**30  # a spare is kept only while this much RAM is free
SPARE_AGAIN = 60.0  # seconds after one that died or could not be started
SPARE_DELAY = 10.0  # seconds after a load before the next spare is started


class Spare:
    """At most one. `on_spare` hears of a new one, then once a second, and None when it is taken or
    gone."""

    def __init__(
        self, folder: Path, wanted: bool, on_spare: Callable[[Child | None], None]
    ) -> None:
        self.folder, self.wanted, self.on_spare = folder, wanted, on_spare
        self.child: Child | None = None
        self._next = time.monotonic()

    @property
    def alive(self) -> Child | None:
        return self.child if self.child and self.child.alive else None

    @property
    def state(self) -> str:
        """None, warming (it imports), ready. A load takes it in any state."""
        if child := self.alive:
            return "ready" if child.preloaded.is_set() else "warming"
        return "none"

    def status(self) -> list[dict[str, Any]]:
        """For /healthz: one row, or none."""
        if (child := self.alive) is None:
            return []
        state = "warm" if self.state == "ready" else self.state
        none = {"backend": "", "model": "", "load_seconds": 0.0, "problem": None}
        return [{"kind": "spare", "id": SPARE, "label": "warm spare", "state": state}
                | none | process_status(child)]  # fmt: skip

    def wait(self, seconds: float | None = None) -> None:
        """The next one not before then; by itself a moment after a load."""
        self._next = time.monotonic() + (SPARE_DELAY if seconds is None else seconds)

    def claim(self, resident: Resident) -> Child | None:
        """It, where there is one and this backend gains by it."""
        child = self.alive
        if child is None or not resident.card.preload:
            return None
        self._set(None)
        self.wait()
        if child.preloaded.is_set() and time.monotonic() - child.heard > SPARE_SILENT:
            child.kill()
            return None
        return child

    def take_back(self, resident: Resident, wanted: bool) -> None:
        """From a load that was refused, which did nothing with it; ended where it is not
        `wanted`."""
        child, resident.child = resident.child, None
        if child and child.alive:
            if self.child is None and wanted:
                self._set(child)
            else:
                child.kill()

    async def drop(self) -> None:
        """End it for the sake of its memory. The next one comes a minute later."""
        child = self.child
        self._set(None)
        self.wait(SPARE_AGAIN)
        if child:
            await child.stop(grace=0.5)

    async def keep(self, loading: bool) -> None:
        """Once a second: start, drop or report it. None is started while a model loads."""
        if not self.wanted:
            return
        free = psutil.virtual_memory().available
        if self.child and (not self.child.alive or free < SPARE_RAM_BYTES / 2):
            await self.drop()
        elif self.child:
            self.on_spare(self.child)
        elif free > SPARE_RAM_BYTES and time.monotonic() > self._next and not loading:
            modules = dict.fromkeys(m for b in BACKENDS.values() for m in b.card.preload)
            if modules:
                await self._start(list(modules))

    async def _start(self, modules: list[str]) -> None:
        try:
            self._set(await Child.start(self.folder, SPARE, modules))
        except OSError as error:  # no process can be started now: later, perhaps
            logging.getLogger(__name__).warning("no spare: %s", error)
            self.wait(SPARE_AGAIN)

    def _set(self, child: Child | None) -> None:
        self.child = child
        self.on_spare(child)
