"""Samples the machine once a second while somebody looks, and remembers the last ten minutes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from backends.card.reading import Reading

KEPT = 600  # readings: ten minutes
INTERVAL = 1.0  # seconds between readings
WATCHED = 5.0  # seconds for which one question keeps the sampling going
log = logging.getLogger(__name__)


class Sampler:
    """One daemon thread that calls `read` once a second, only if someone asked within 5 s.

    `read` is `Machine().read` or a test's stand-in. Nobody waits for a reading: `since` answers
    from memory at once, so it may be called from an event loop.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        clock: Callable[[], float] = time.monotonic,
        interval: float = INTERVAL,
    ) -> None:
        self.read, self.clock, self.interval = read, clock, interval
        self._readings: deque[tuple[Reading, dict[str, Any]]] = deque(maxlen=KEPT)
        self._seq = 0
        self._error = ""
        self._asked: float | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread. A second call changes nothing."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="gpu-sampler", daemon=True
            )
            self._thread.start()

    def stop(self, grace: float = 2.0) -> None:
        """End the thread. One that hangs in the driver is left behind after `grace` seconds."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(grace)
            self._thread = None

    def since(self, seq: int) -> dict[str, Any]:
        """The readings after number `seq`, oldest first; a negative `seq` means the last so many.

        `{"seq": n, "readings": [...]}`; ask next time with that n. A number from before a restart
        of the page gets everything. "error" is a sentence where the last reading failed.
        """
        with self._changed:
            self._asked = self.clock()
            self._changed.notify_all()
            first = self._seq + seq if seq < 0 else seq if seq <= self._seq else 0
            wanted = max(0, self._seq - max(0, first))
            kept = list(self._readings)[-wanted:] if wanted else []
            answer = {"seq": self._seq, "readings": [as_json for _, as_json in kept]}
            return answer | {"error": self._error} if self._error else answer

    def latest(self) -> Reading | None:
        """The newest reading, however old; None before the first. Does not count as asking."""
        with self._changed:
            return self._readings[-1][0] if self._readings else None

    def sample(self) -> None:
        """Take one reading now. The thread calls this; a test may, too."""
        try:
            reading = self.read()
        except Exception as error:  # a strip that goes dark until the next start helps nobody
            log.exception("the machine could not be read")
            with self._changed:
                self._error = (
                    f"The machine could not be read ({type(error).__name__}). "
                    "It is tried again each second; the log has the details."
                )
            return
        with self._changed:
            self._seq += 1
            self._error = ""
            numbered = replace(reading, seq=self._seq)
            self._readings.append((numbered, numbered.to_json()))

    def _run(self, stopping: threading.Event) -> None:
        due = self.clock()
        while True:
            with self._changed:
                while not stopping.is_set() and not self._watched():
                    self._changed.wait()  # no timeout: an unwatched sampler uses no CPU at all
            if stopping.is_set():
                return
            self.sample()
            due = max(due + self.interval, self.clock())  # no drift, and no burst after a sleep
            stopping.wait(max(0.0, due - self.clock()))

    def _watched(self) -> bool:
        return self._asked is not None and self.clock() - self._asked <= WATCHED
