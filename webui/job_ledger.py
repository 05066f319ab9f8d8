"""Jobs in the ledger: room before they start, an entry while they run, what they really took.

Whatever a page starts goes through `start`; what an earlier page or a terminal started is found by
its lock and written down as it is. A job of the queue waits here until it fits.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from backends.base import ModelRef, Refused
from backends.card import fit_load, plan_train
from backends.card.fit import gigabytes
from backends.card.fit_train import TrainPlan
from backends.card.source import Source
from backends.card.trainings import Trainings, class_of
from backends.finetune.sft_params import SftParams
from backends.models import catalogue, library
from backends.params import to_dict
from backends.runtime.disk import read_lines
from backends.runtime.job_spec import check_dataset, understand
from backends.runtime.job_state import JobState
from backends.runtime.jobs import TICK
from backends.runtime.process import peak_bytes
from backends.runtime.residency import Need
from webui.finetune import plan

if TYPE_CHECKING:
    from webui.bench import Bench

LOG = logging.getLogger("werkbank.jobs")
STEPS = 5  # of a run, before anything is learned from it
SHRUNK = "Memory ran out"  # how the notice of a smaller micro-batch begins


@dataclass
class Run:
    """One job while it runs. `need`: what it was promised; `peak`: the most bytes it was seen with.

    sft  its base's headers and its plan, and what these alone foretell, in bytes; None for others
    """

    id: str
    label: str
    device: str
    model: str
    need: Need
    sft: tuple[Source, TrainPlan, int] | None = None
    read_to: int = 0
    peak: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)


class JobLedger:
    """One per bench; everything here belongs to the event loop."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runs: dict[str, Run] = {}
        self.waits: dict[str, Refused] = {}  # by id, of the queue: why it has not started
        self._starting: set[str] = set()
        self.beginning = asyncio.Lock()  # two that are begun at once: the second one waits its turn

    async def start(self, id: str) -> JobState:
        """Start a job, or go on with it, once there is room: idle models go for it. Nothing
        happens to one that runs. Raises Refused, with numbers and what would fit, where it does
        not; nothing has been started then."""
        jobs = self.bench.jobs
        state = await asyncio.to_thread(jobs.state, id)
        if state.live or id in self._starting:
            return state
        if state.status == "finished":
            return await asyncio.to_thread(jobs.start, id)  # which says so
        self._starting.add(id)
        try:
            await asyncio.to_thread(check_there, jobs.spec(id))
            run = await asyncio.to_thread(self._described, state)
            smaller = await asyncio.to_thread(self._smaller, run)
            for told in await self.bench.residency.make_room_for_job(
                id, run.label, run.device, run.need, smaller
            ):
                LOG.info("%s", told)
            try:
                jobs.grants[id] = self.bench.ledger.grant(id)
                state = await asyncio.to_thread(jobs.start, id)
            except BaseException:
                self.bench.ledger.remove(id)
                raise
            self._begin(run)
            self.waits.pop(id, None)
            return state
        finally:
            self._starting.discard(id)

    def waiting_because(self, id: str) -> str:
        """Why a job of the queue has not started, in sentences; "" where it is not its turn."""
        return str(self.waits.get(id, ""))

    async def watch(self) -> None:
        """The task of a living page, in the place of `Jobs.watch`."""
        while True:
            try:
                await self.look()
            except OSError as error:  # a full disk: the next look may find room
                LOG.warning("the jobs could not be looked after: %s", error.strerror)
            except Refused as refused:  # what is free cannot be read just now
                LOG.warning("the jobs could not be looked after: %s", refused)
            except Exception:  # the queue and what is to stop must not stand still for it
                LOG.exception("the jobs could not be looked after")
            await asyncio.sleep(TICK)

    async def look(self) -> None:
        """Entries as the jobs are, then the next of the queue where none runs."""
        jobs = self.bench.jobs
        live = await asyncio.to_thread(jobs.tick, False)
        for state in live:
            if state.id not in self.runs and state.id not in self._starting:
                await self._adopt(state)
            if state.id in self.runs:
                await self._measure(self.runs[state.id], state)
        alive = {state.id for state in live} | self._starting
        for id in [id for id in self.runs if id not in alive]:
            await self._end(self.runs.pop(id))
        waiting = [] if alive else await asyncio.to_thread(jobs.queue)
        self.waits = {id: why for id, why in self.waits.items() if id in waiting}
        if waiting:
            await self._start_next(waiting[0])

    async def _start_next(self, id: str) -> None:
        try:
            await self.start(id)
        except Refused as refused:
            if self.bench.ledger.get(id) is not None or id in self.runs:
                return
            if never := await asyncio.to_thread(self._never, id):
                LOG.warning("%s leaves the queue: %s", id, never)
                await asyncio.to_thread(self.bench.jobs.give_up, id, never)
            else:
                self.waits[id] = refused

    def _never(self, id: str) -> Refused | None:
        """Why no waiting helps this one; None where it may fit later. For a thread."""
        try:
            state = self.bench.jobs.state(id)
            check_there(self.bench.jobs.spec(id))
            run = self._described(state)
        except Refused as refused:
            return refused
        whole = self._whole(run.device)
        if whole is None or run.need.bytes <= whole - self.bench.reserve_bytes(run.device):
            return None
        place = "memory" if run.device == "cpu" else f"memory of {run.device}"
        return Refused(
            f"{run.label} needs {gigabytes(run.need.bytes)} of {place}, which has "
            f"{gigabytes(whole)} in all.",
            self._smaller(run) or "Choose a smaller base or a shorter length.",
        )

    def _whole(self, device: str) -> int | None:
        """The bytes of its memory, free or not; None where the driver does not tell."""
        if device == "cpu":
            return int(psutil.virtual_memory().total)
        gpus = self.bench.reading.gpus
        return next((g.total_bytes for g in gpus if f"cuda:{g.index}" == device), None)

    # Entries

    def _begin(self, run: Run) -> None:
        self.runs[run.id] = run
        self.bench.monitor.activity.begin(run.id, "finetune", run.label, run.device)

    async def _adopt(self, state: JobState) -> None:
        """It runs already, so it has its memory: nobody is asked."""
        try:
            run = await asyncio.to_thread(self._described, state)
        except Refused:  # its base is gone, or its spec is of another version: it runs all the same
            run = Run(state.id, f"Training {state.name}", "cpu", "", Need(0))
        self.bench.ledger.add(
            id=run.id, label=run.label, owner="finetune", kind="job", device=run.device,
            predicted_bytes=run.need.bytes, fixed_bytes=run.need.fixed_bytes, running=True,
        )  # fmt: skip
        self.bench.ledger.set_busy(run.id, True)
        self._begin(run)

    async def _measure(self, run: Run, state: JobState) -> None:
        held, steps = await asyncio.to_thread(self._held, run, state)
        if held:
            # What it was promised stays promised while it still takes more from step to step.
            self.bench.ledger.measure(run.id, held, "ready" if steps else "loading")

    def _held(self, run: Run, state: JobState) -> tuple[int, int]:
        """Bytes on its device now, and how many steps are known. For a thread."""
        lines, run.read_to = self.bench.jobs.metrics(run.id, run.read_to)
        run.lines = [*run.lines, *lines][-1000:]
        if run.device == "cpu":
            try:
                held = int(psutil.Process(state.pid).memory_info().rss) if state.pid else 0
            except psutil.Error:
                held = 0
            run.peak = max(run.peak, held, peak_bytes(state.pid))
        else:
            held = max((int(line.get("memory") or 0) for line in lines), default=0)
            held = held or run.peak
            run.peak = max(run.peak, held)
        return held, len(run.lines)

    async def _end(self, run: Run) -> None:
        self.bench.ledger.remove(run.id)
        self.bench.jobs.grants.pop(run.id, None)
        self.bench.monitor.activity.end(run.id)
        await asyncio.to_thread(self._learn, run)

    def _learn(self, run: Run) -> None:
        """What it took goes to the file that the next forecast reads. For a thread."""
        lines, _ = self.bench.jobs.metrics(run.id, run.read_to)
        lines = [*run.lines, *lines]
        if run.sft is None or len(lines) < STEPS:
            return
        events, _ = read_lines(self.bench.jobs.path(run.id) / "events.jsonl", 0)
        if any(str(event.get("message", "")).startswith(SHRUNK) for event in events):
            return  # from there on it was another one
        source, chosen, foretold = run.sft
        if run.device != "cpu":
            run.peak = max(run.peak, *(int(line.get("memory") or 0) for line in lines))
        beside = run.need.fixed_bytes  # torch does not count its context
        Trainings(self.bench.measured).add(
            model=run.model, device=run.device, settings=class_of(chosen), fit_bytes=foretold,
            measured_bytes=run.peak + beside, micro_batch=chosen.micro_batch, length=chosen.length,
            tokens_per_second=round(plan.speed_of(lines), 2),
            operations=plan_train.operations(source, chosen),
        )  # fmt: skip

    # What a job needs, by its spec

    def _described(self, state: JobState) -> Run:
        """Reads headers: for a thread. Raises Refused for a spec that makes no sense."""
        spec = self.bench.jobs.spec(state.id)
        try:
            asked = understand(spec, self.bench.jobs.path(state.id))
        except ValueError as error:
            raise Refused(*_sentences(str(error))) from error
        card, options = asked.backend.card, to_dict(asked.options)
        device, model = self.bench.device_of(card.name, options), str(asked.model)
        label = f"Training {state.name}"
        fixed = fit_load.CUDA_CONTEXT if device != "cpu" else 0
        found = None
        if isinstance(asked.params, SftParams):
            found = plan.predicted(model, options, asked.params, device)
        if found is None:
            return Run(state.id, label, device, model, Need(card.memory_base + fixed, fixed))
        source, chosen, foretold = found
        known = Trainings(self.bench.measured).correct(foretold, chosen, model, device)
        need = Need(known.total, fixed and known.part("CUDA context"))
        return Run(state.id, label, device, model, need, (source, chosen, foretold.total))

    def _smaller(self, run: Run) -> str:
        """How it would fit, for a refusal; "" where nothing is known of it. For a thread."""
        if run.sft is None:
            return ""
        source, chosen, _ = run.sft
        room = plan.room_of(self.bench, run.model, run.device)
        ways = [text for text, total in plan.smaller(source, chosen, room) if total <= room.bytes]
        jobs = [e for e in self.bench.ledger.entries(run.device) if e.kind == "job"]
        wait = [f"Wait for {jobs[0].label}, or pause it."] if jobs else []
        fits = [f"It fits {' · '.join(ways)}."] if ways else []
        return " ".join([*wait, *fits]) or "Choose a smaller base, or close other programs."


def check_there(spec: dict[str, Any]) -> None:
    """Raises Refused where a job's base or its dataset is gone. For a thread."""
    check_dataset(spec)
    base = ModelRef.parse(str(spec.get("base") or "none:"))
    library.check(catalogue.training_base(base))


def _sentences(text: str) -> tuple[str, str]:
    happened, stop, mend = text.partition(". ")
    return (happened + ".", mend) if stop else (text, "")
