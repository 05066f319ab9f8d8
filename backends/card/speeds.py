"""How fast each model runs, against its own best on this machine."""

from __future__ import annotations

from collections import deque

from backends.card.measured import Measured

WINDOW = 5.0  # seconds that a live speed looks back
SHORTEST = 2.0  # seconds before a speed counts
BETTER = 1.1  # times the best so far: only then a line is written


class Speeds:
    """The best of each model, kept in `measured.jsonl`. A key names the model, how it was loaded
    and where, since each of these has a best of its own."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self._best: dict[str, float] | None = None

    def share(self, key: str, per_second: float) -> float:
        """Of the best so far, which this may become. 1 is as fast as ever."""
        best = self._known().get(key, 0.0)
        if per_second > best * BETTER:
            self._known()[key] = per_second
            self.measured.append(kind="speed", key=key, per_second=round(per_second, 2))
        return per_second / max(best, per_second) if per_second > 0 else 0.0

    def _known(self) -> dict[str, float]:
        if self._best is None:
            self._best = {}
            for record in self.measured.records(kind="speed"):
                key, speed = str(record.get("key")), record.get("per_second")
                if isinstance(speed, int | float):
                    self._best[key] = max(float(speed), self._best.get(key, 0.0))
        return self._best


class Pace:
    """The speed of one run over the last `WINDOW` seconds, in whatever is counted."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()  # when, and how much until then
        self._total = 0.0

    def add(self, count: float, now: float) -> float | None:
        """`count` more at `now`. Returns the speed, None while it is too early to say."""
        self._total += count
        self._marks.append((now, self._total))
        while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW:
            self._marks.popleft()
        begin, before = self._marks[0]
        seconds = now - begin
        return (self._total - before) / seconds if seconds >= SHORTEST else None
