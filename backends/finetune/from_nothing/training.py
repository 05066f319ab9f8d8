"""The loop over the stages of a training from nothing, as a source of events.

On a GPU nobody waits for a step: its numbers are gathered there and told some steps at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from backends.events import Artifact, Event, Metric, Notice, Progress
from backends.finetune import sealing
from backends.finetune.from_nothing import samples, state
from backends.finetune.from_nothing.compiling import Compiling
from backends.finetune.from_nothing.kinds import Kind
from backends.finetune.from_nothing.stages import Bench, Order, Stage, mixed
from backends.finetune.shortage import Hurried, OutOfMemory, free_memory, is_short, memory_bytes

GATHERED = 25  # steps on a GPU whose numbers are told at once


class Training:
    """One run of a training, resumed or not. `ended` says how it went: "" (to the end), cancelled,
    limit, diverged."""

    def __init__(
        self, kind: Kind, bench: Bench, cancelled: Callable[[], bool], hurried: Callable[[], bool]
    ) -> None:
        self.kind, self.bench = kind, bench
        self.cancelled, self.hurried = cancelled, hurried
        self.job = Path(bench.params.folder)
        self.steps = kind.steps(bench.params)
        self.where = state.Where(kind.name, parts=bench.params.accumulation)
        self.ended = ""
        self.bad = 0  # steps in a row whose loss was no number
        minutes = bench.params.minutes
        self.until = time.monotonic() + 60.0 * minutes if minutes else math.inf
        self._untold: list[tuple[int, dict[str, Any]]] = []
        self._since = time.monotonic()

    @property
    def step(self) -> int:
        """Done, of all stages together."""
        return sum(self.steps[: self.where.stage]) + self.where.done

    def run(self, found: Path | None) -> Iterator[Event]:
        """Go on from the checkpoint `found` until all stages are done, or until something ends it.

        Raises DiskShort, OutOfMemory, Refused.
        """
        if found:
            self.where = state.read(found, self.bench)
        for number in range(self.where.stage, len(self.kind.stages)):
            yield Progress(self.step, sum(self.steps), "preparing")
            stage = self.kind.stages[number](self.bench)
            if found:
                state.load(found, stage)
                found = None
            yield from self._stage(stage)
            if self.ended:
                return
            self.bench.finished |= stage.finish()
            if number + 1 < len(self.kind.stages):
                self.where.stage, self.where.done = number + 1, 0
            del stage
            free_memory()

    def _stage(self, stage: Stage) -> Iterator[Event]:
        where, params = self.where, self.bench.params
        state.room_for(self.job, stage)  # said now, not when the first checkpoint is due
        order = Order(len(self.bench.pictures), stage.batch, mixed(params.seed, where.stage))
        compiling = Compiling(params.compile, self.bench.device, stage, self.until)
        together = GATHERED if self.bench.device == "cuda" else 1
        self._since = time.monotonic()
        while where.done < stage.steps:
            if self._asked_to_end():
                yield from self._told(stage)
                if self.bad < sealing.NOT_FINITE:
                    yield from self._saved(stage, quick=True)
                return
            yield from compiling.before(where.done)
            values = yield from self._stepped(stage, order, compiling)
            if values is None:
                continue
            where.done += 1
            self._untold.append((self.step, values))
            due = self.step % params.save_steps == 0 or where.done == stage.steps
            if due or len(self._untold) >= together:
                yield from self._told(stage)
            if self.ended:
                return
            if due:
                yield from self._saved(stage)

    def _asked_to_end(self) -> bool:
        if self.hurried() or self.cancelled():
            self.ended = "cancelled"
        elif time.monotonic() >= self.until:
            self.ended = "limit"
        return bool(self.ended)

    def _stepped(
        self, stage: Stage, order: Order, compiling: Compiling
    ) -> Generator[Event, None, dict[str, Any] | None]:
        """One step, with less memory where it must be. Its numbers; None where it was given up."""
        import torch

        done = self.where.done
        while True:
            dice = torch.Generator(self.bench.device)
            dice.manual_seed(mixed(self.bench.params.seed, self.where.stage, done))
            short = ""
            try:
                rows = order.rows(done)
                return stage.learn(done, rows, dice, self.where.parts, self._look)
            except Hurried:
                self._given_up(stage)
                return None
            except Exception as error:
                if is_short(error):
                    short = str(error)
                elif stage.changing or not compiling.can_fall_back:
                    raise
                said = f"{type(error).__name__}: {error}"
            # Out of the handler, whose frames hold the tensors.
            self._given_up(stage)
            yield from self._with_less(stage, short) if short else compiling.fall_back(said)

    def _look(self) -> None:
        if self.hurried():
            raise Hurried

    def _given_up(self, stage: Stage) -> None:
        for learner in stage.learners.values():
            learner.forget()

    def _with_less(self, stage: Stage, short: str) -> Iterator[Event]:
        """After a step that did not fit: twice as many parts. Raises OutOfMemory where it cannot
        be less, or where the weights were being changed."""
        free_memory()
        if stage.changing:
            raise OutOfMemory(self.step, short, torn=True)
        if self.where.parts >= stage.batch:
            yield from self._told(stage)
            yield from self._saved(stage, quick=True)
            raise OutOfMemory(self.step, short)
        self.where.parts = min(2 * self.where.parts, stage.batch)
        yield Notice(
            f"Memory ran out at step {self.step + 1}. The micro-batch is now "
            f"{math.ceil(stage.batch / self.where.parts)}, with accumulation {self.where.parts}: "
            "the batch and the order of the pictures stay."
        )

    def _told(self, stage: Stage) -> Iterator[Event]:
        """The numbers of the steps since the last time; this waits for the device."""
        untold, self._untold = self._untold, []
        if not untold:
            return
        numbers = [{k: float(v) for k, v in values.items()} for _, values in untold]
        now = time.monotonic()
        rate = len(untold) * stage.batch / max(now - self._since, 1e-9)
        self._since = now
        memory = memory_bytes()
        for (step, _), values in zip(untold, numbers, strict=True):
            finite = all(map(math.isfinite, values.values()))
            self.bad = 0 if finite else self.bad + 1
            if finite:
                self.where.last_loss = values["loss"]
            values |= {"images_per_second": rate, "stage": self.where.stage + 1, "memory": memory}
            for name, value in values.items():
                yield Metric(step, name, value)
            if self.bad >= sealing.NOT_FINITE:
                self.ended = "diverged"
                return
        yield Progress(self.step, sum(self.steps), stage.label)

    def _saved(self, stage: Stage, quick: bool = False) -> Iterator[Event]:
        """A checkpoint and, unless it is to be quick, samples. Nothing where the loss of the last
        step was no number."""
        if self.bad or not self.step:
            return
        folder = state.write(self.job, self.step, self.where, stage, self.bench,
                             self.bench.params.keep)  # fmt: skip
        yield Artifact(str(folder), "checkpoint")
        if not quick:
            yield from self._sampled(stage)
        self._since = time.monotonic()

    def _sampled(self, stage: Stage) -> Iterator[Event]:
        short = False
        try:
            drawn = stage.drawn(self._look)
        except Hurried:
            return
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            short = True
        if short:
            free_memory()
            yield Notice(
                f"Memory ran out while samples were drawn after step {self.step}, so they are "
                "missing there. The training goes on."
            )
            return
        yield from samples.told(self.job, self.step, drawn)
