"""What ran in the last ten minutes: the bands behind the panel's charts. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 600.0  # seconds
MOST = 200  # spans; of more, the oldest go
JOINED = 1.0  # seconds between two spans that are shown as one
SHORTEST = 0.05  # seconds; shorter ones are no work, such as counting tokens


@dataclass(slots=True)
class Span:
    """One stretch of work. `kind` is the tab it was for, "load" while a model came into memory.

    begin, end: seconds of the clock of `Reading.at`; no end while it goes on
    runs: answers, images or steps in it
    energy_wh: of all its runs; None where that is not known
    """

    id: str
    kind: str
    label: str
    device: str
    begin: float
    end: float | None = None
    runs: int = 0
    energy_wh: float | None = None


class Activity:
    """At most one open span for each id, a resident's or a job's. Not for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._open: dict[str, Span] = {}
        self._over: list[Span] = []  # by their end

    def begin(self, id: str, kind: str, label: str, device: str) -> None:
        """It works from now on. Nothing changes where it does so already, as the same kind."""
        now = self.clock()
        self.end(id)
        last = next((s for s in reversed(self._over) if s.id == id), None)
        if last and last.kind == kind and last.end is not None and now - last.end <= JOINED:
            self._over.remove(last)
            last.end, last.label = None, label
            self._open[id] = last
        else:
            self._open[id] = Span(id, kind, label, device, now)

    def end(self, id: str) -> None:
        """It is idle, or gone. Unknown ids: no-op."""
        if (span := self._open.pop(id, None)) is None:
            return
        span.end = now = self.clock()
        if span.end - span.begin >= SHORTEST or span.runs:
            self._over.append(span)
        self._over = [s for s in self._over[-MOST:] if s.end is None or now - s.end <= KEPT]

    def add_run(self, id: str, energy_wh: float | None) -> None:
        """One run of `id` is over and took so much. Counts for its open span, or its last one."""
        span = self._open.get(id) or next((s for s in reversed(self._over) if s.id == id), None)
        if span is None:
            return
        span.runs += 1
        if energy_wh is not None:
            span.energy_wh = (span.energy_wh or 0.0) + energy_wh

    def spans(self) -> list[Span]:
        """Those of the last ten minutes, by their begin."""
        oldest = self.clock() - KEPT
        kept = [s for s in self._over if s.end is None or s.end >= oldest]
        return sorted([*kept, *self._open.values()], key=lambda s: s.begin)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(span) for span in self.spans()]
