"""Whether a stage is compiled: where the steps that are left pay for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backends.events import Event, Notice

if TYPE_CHECKING:
    from backends.finetune.from_nothing.stages import Stage

SETTLED, MEASURED = 10, 40  # steps of this run between which a step is timed
PAYS = 420.0  # seconds of training left, from which on about two minutes of compiling come back


class Compiling:
    """One stage of one run. `can_fall_back`: its compiled code has not done a step yet."""

    def __init__(self, wish: str, device: str, stage: Stage, until: float) -> None:
        self.stage, self.until = stage, until
        self.waits = device == "cuda" and wish != "off"
        self.at_once = wish == "on"
        self.can_fall_back = False
        self._steps, self._began = 0, 0.0

    def before(self, done: int) -> Iterator[Event]:
        """Before the step after `done` steps of the stage."""
        self.can_fall_back = False
        if not self.waits:
            return
        if self.at_once or self._pays(done):
            self.waits, self.can_fall_back = False, True
            self.stage.compile()
            yield Notice("Compiling: the next step takes a minute or two, the others less.")
        self._steps += 1

    def _pays(self, done: int) -> bool:
        import torch

        if self._steps == SETTLED:
            torch.cuda.synchronize()
            self._began = time.monotonic()
        if self._steps < MEASURED:
            return False
        torch.cuda.synchronize()
        now = time.monotonic()
        one = (now - self._began) / (MEASURED - SETTLED)
        left = min((self.stage.steps - done) * one, self.until - now)
        self.waits = left >= PAYS
        return self.waits

    def fall_back(self, said: str) -> Iterator[Event]:
        """After a first compiled step that failed."""
        self.can_fall_back = False
        self.stage.interpret()
        yield Notice(f"It could not be compiled, so it goes on without ({said[:300]}).")
