"""The bench: folders, workers, ledger, gate and store, in one object that every tab is handed.

One bench per page process. What a tab or the API wants done goes through `load`, `unload` and
`generate`, so that the page, the API and the shared demo obey one ledger and one gate.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import BACKENDS
from backends.base import ModelRef, Refused
from backends.card import fit_load, offload, pretended, vram
from backends.card.gpu import Machine, Reading
from backends.card.ledger import GB, Entry, Ledger
from backends.card.measured import Measured
from backends.card.sampler import Sampler
from backends.events import Done, Event, Failed, Notice, Progress
from backends.models import library
from backends.models.library import Listed
from backends.params import read, to_dict
from backends.runtime.child import Call
from backends.runtime.downloads import Downloads
from backends.runtime.jobs import Jobs
from backends.runtime.process import empty_temp
from backends.runtime.residency import GONE, Need, Residency, WhenIdle
from backends.runtime.resident import Resident, adapters_in
from webui.answers import Answers
from webui.demo.share import Sharing
from webui.finetune.merges import Merges
from webui.forecast import Forecast, sentence
from webui.gate import Gate
from webui.image.gallery import Gallery
from webui.image.queue import PictureQueue
from webui.job_ledger import JobLedger
from webui.monitor import Monitor
from webui.settings import SettingsFile
from webui.store import Store

TASKS = ("chat", "image", "multimodal", "speech")
AWAY = ("loading", "parking", "parked", "returning")


@dataclass(frozen=True)
class Waiting:
    """Not its turn yet: `position` 1 is next."""

    position: int


@dataclass
class Loading:
    """A load under way. It goes on when nobody watches; `cancel` ends it."""

    resident: Resident
    progress: Progress = field(default_factory=lambda: Progress(0, 0, "starting"))
    notices: list[str] = field(default_factory=list)
    task: asyncio.Task[Done | Failed] | None = None

    async def outcome(self) -> AsyncGenerator[Event, None]:
        """Progress five times a second, notices as they come, at last Done or Failed."""
        assert self.task
        told = 0
        while not self.task.done():
            await asyncio.wait({self.task}, timeout=0.2)
            for message in self.notices[told:]:
                yield Notice(message)
            told = len(self.notices)
            yield self.progress
        if self.task.cancelled():
            yield Failed("The load was cancelled.", "Load it again when you want it.")
        else:
            yield self.task.result()

    def cancel(self) -> None:
        if self.task:
            self.task.cancel()


class Bench:
    """Made before the event loop runs; `start` and `stop` belong to the server's lifespan."""

    def __init__(self, home: Path, *, spare: bool = True, machine: Machine | None = None) -> None:
        self.home = home
        self.temp = home / "werkbank-tmp"
        self.machine = machine or pretended.machine(self.held_on_card)
        self.sampler = Sampler(self.machine.read)
        self.settings = SettingsFile(home / "settings.json")
        self.ledger = Ledger(lambda device: self.reading.free_bytes(device), self.reserve_bytes)
        self.measured = Measured(home / "measured.jsonl")
        self.forecast = Forecast(self.measured)
        self.residency = Residency(home, self.ledger, self, spare=spare, when_idle=self.when_idle)
        self.supervisor = self.residency.supervisor
        self.gate = Gate()
        self.store = Store(home / "werkbank.db")
        self.gallery = Gallery(home)
        self.downloads = Downloads(home)
        self.jobs = Jobs(home)
        self.job_ledger = JobLedger(self)
        self.merges = Merges()
        self.watching: asyncio.Task[None] | None = None
        self.monitor = Monitor(self)
        self.answers = Answers(self)
        self.sharing = Sharing(self)
        self.pictures = PictureQueue(self.gallery, self.find, self.generate, [self.temp])
        self.loadings: dict[str, Loading] = {}  # by reference

    async def start(self) -> None:
        empty_temp(self.home)
        try:
            await asyncio.to_thread(self.store.settle)
        except Refused as refused:  # another program has the file: the page is there all the same
            self.store.database.notice = str(refused)
        self.sharing.clean()
        self.sampler.start()
        self.watching = asyncio.create_task(self.job_ledger.watch())
        await self.residency.start()
        await self.pictures.start()

    async def stop(self) -> None:
        if self.watching:
            self.watching.cancel()  # the jobs themselves go on
        await self.sharing.stop()
        await self.downloads.close()
        await self.merges.close()
        await self.pictures.stop()
        await self.answers.stop_all()
        for loading in list(self.loadings.values()):
            loading.cancel()
        await self.residency.stop()
        self.sampler.stop()
        self.store.close()
        self.gallery.close()

    @property
    def reading(self) -> Reading:
        """The newest one of the machine. Nobody waits for the driver in the event loop: only the
        first is taken here, and that is while the page is built. `fresh_reading` brings another."""
        if self.sampler.latest() is None:
            self.sampler.sample()
        return self.sampler.latest() or self.machine.read()

    async def fresh_reading(self, age: float = 0.0) -> Reading:
        """One that is at most `age` seconds old, read in a thread where there is none."""
        latest = self.sampler.latest()
        if latest is None or self.machine.clock() - latest.at > age:
            await asyncio.to_thread(self.sampler.sample)
        return self.reading

    # Models

    def models(self, task: str) -> list[Listed]:
        """What is on this machine for a task, usable or not (then `problem` says why)."""
        return library.list_models(task)

    def find(self, name: str) -> Listed:
        """By the id that API clients use, or by reference. Raises Refused."""
        for task in TASKS:
            with contextlib.suppress(Refused):
                return library.find_model(task, name)
        raise Refused(
            f"There is no model {name[:80]!r} on this machine.", "Pick one from the list of models."
        )

    def resident_of(self, listed: Listed) -> Resident | None:
        """The resident that holds this model, loading, ready or crashed; None where none does."""
        for resident in self.supervisor.residents.values():
            if resident.model == str(listed.ref) and resident.state not in ("failed", "unloaded"):
                return resident
        return None

    def loaded_refs(self) -> list[ModelRef]:
        """What is in memory or on its way there: it is not to be deleted."""
        alive = [r for r in self.supervisor.residents.values() if r.state not in GONE]
        return [ModelRef.parse(r.model) for r in alive]

    def load(self, listed: Listed, options: dict[str, Any] | None, owner: str = "") -> Loading:
        """Start loading, or join the load of the same model. Other options replace what is loaded.
        `owner` is the tab that it is for, "" for that of its task.

        Raises Refused where the file cannot be loaded or an option is wrong: before any process.
        """
        ref = str(listed.ref)
        if listed.problem:
            raise Refused(*sentences(listed.problem))
        wanted = complete(listed.backend, options or {})
        if ref in self.loadings:
            if options is not None and self.loadings[ref].resident.options != wanted:
                raise Refused(
                    f"{listed.title} is being loaded with other settings.", "Wait, or cancel that."
                )
            return self.loadings[ref]
        present = self.resident_of(listed)
        keeps = present is not None and (options is None or wanted == present.options)
        if present is not None and not keeps and present.running:
            raise Refused(
                f"{listed.title} is answering with other settings.", "Wait for its end, or stop it."
            )
        resident = (
            present
            if present is not None and keeps
            else self.supervisor.admit(listed.backend, ref, wanted, listed.title)
        )
        resident.size, resident.owner = size_of(listed), owner or listed.task
        loading = Loading(resident)
        loading.task = asyncio.get_running_loop().create_task(
            self._load(loading, None if keeps else present)
        )
        self.loadings[ref] = loading
        loading.task.add_done_callback(lambda task: self._ended(ref, resident))
        return loading

    def _ended(self, ref: str, resident: Resident) -> None:
        self.loadings.pop(ref, None)
        if resident.state == "loading" and not resident.loading.locked():
            self.supervisor.drop(resident)  # cancelled before it had begun

    async def _load(self, loading: Loading, instead_of: Resident | None) -> Done | Failed:
        resident = loading.resident
        if instead_of:
            await self.unload(instead_of)
        last: Event = Failed("The load ended without an answer.", "Load it again.")
        async with contextlib.aclosing(self.supervisor.load(resident)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    loading.progress = event
                elif isinstance(event, Notice):
                    loading.notices.append(event.message)
                last = event
        assert isinstance(last, Done | Failed)
        return last

    async def unload(self, resident: Resident) -> dict[str, int]:
        """Returns what came back, in bytes."""
        return await self.residency.unload(resident)

    # Generation: one way for the page, the API and the demo

    async def generate(
        self,
        listed: Listed,
        params: dict[str, Any],
        visitor: str,
        *,
        options: dict[str, Any] | None = None,
        on_call: Callable[[Call], None] = lambda call: None,
        guest: bool = False,
    ) -> AsyncGenerator[Event | Waiting, None]:
        """Load where needed, wait for a turn, run. The last event is Done or Failed.

        A `guest`, a visitor of a shared demo, waits behind everybody else. Closing the iterator at
        any time frees its place, once the worker has stopped. Raises Busy where the waiting room
        is full.
        """
        try:
            resident = self.resident_of(listed)
            differs = (
                resident
                and options is not None
                and (complete(listed.backend, options) != resident.options)
            )
            if resident is None or resident.state in AWAY or differs:
                async for event in self._loaded_first(listed, options):
                    yield event
                    if isinstance(event, Failed):
                        return
                resident = self.resident_of(listed)
            if resident is None:
                raise Refused("The model was unloaded meanwhile.", "Send it again.")
        except Refused as refused:
            yield refused.as_event()
            return
        ticket = self.gate.enter(resident.id, visitor, resident.card.slots, guest=guest)
        calls: list[Call] = []

        def begun(call: Call) -> None:
            calls.append(call)
            on_call(call)

        try:
            async for position in ticket.positions():
                if position:
                    yield Waiting(position)
            params = with_defaults(params, listed)
            resident.adapters = adapters_in(params)
            run = self.supervisor.run(resident, params, begun, on_free=ticket.leave)
            async with contextlib.aclosing(self.monitor.metered(resident, params, run)) as events:
                async for event in events:
                    yield event
        finally:
            if not calls:  # otherwise the place is kept until the worker is free
                ticket.leave()

    async def count_tokens(
        self, listed: Listed, params: dict[str, Any], visitor: str
    ) -> tuple[int, int]:
        """How long a chat's prompt is and what the model reads at once, in tokens.

        Zeros where the model is not loaded: counting loads none.
        """
        if (resident := self.resident_of(listed)) is None or not resident.usable:
            return 0, 0
        events = self.generate(listed, {**params, "count_only": True}, visitor)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Done):
                    usage = event.usage
                    return int(usage.get("prompt_tokens", 0)), int(usage.get("context_length", 0))
        return 0, 0

    async def _loaded_first(
        self, listed: Listed, options: dict[str, Any] | None
    ) -> AsyncGenerator[Event, None]:
        """Progress until the model is there; Failed where it cannot be. Never Done."""
        async with contextlib.aclosing(self.load(listed, options).outcome()) as events:
            async for event in events:
                if not isinstance(event, Done):
                    yield event

    # The ledger's side of a load

    def device_of(self, backend: str, options: dict[str, Any]) -> str:
        """Where a model loaded so will have its memory: "cuda:0" or "cpu"."""
        card = BACKENDS[backend].card
        wants = card.on_gpu(read(card.load_options, options))
        return "cuda:0" if wants and self.reading.has_gpu else "cpu"

    def need(self, resident: Resident, device: str) -> Need:
        """What it will take at most (`webui/forecast.py`)."""
        fixed = fit_load.CUDA_CONTEXT if device != "cpu" else 0
        args = (resident.backend, resident.model, resident.as_loaded, device)
        known = self.forecast.of(*args)
        if known is None:
            return Need(self.forecast.bytes(resident, device) + fixed, fixed)
        return Need(known.total, fixed and known.part("CUDA context"), known.ram)

    def advice(self, resident: Resident, device: str, hint: str) -> str:
        """`hint` of a refused load, and how the model fits: loaded otherwise, or with a part of it
        in RAM."""
        ways = self.forecast.remedies(
            resident.backend, resident.model, resident.options, device,
            self.to_be_had(device), self.to_be_had("cpu"),
        )  # fmt: skip
        return f"{hint} {sentence(ways)}".strip()

    def loaded(self, resident: Resident, entry: Entry) -> None:
        """What a load really took goes to the file that predictions learn from."""
        if not resident.card.measured:
            return
        args = (resident.backend, resident.model, resident.as_loaded, entry.device)
        foretold = self.forecast.plain(*args)
        self.measured.append(
            kind="load", backend=resident.backend, model=resident.model,
            fit_bytes=foretold.held if foretold else None,
            options=resident.as_loaded, device=entry.device,
            predicted_bytes=entry.predicted_bytes, measured_bytes=resident.held_bytes,
        )  # fmt: skip

    async def watched_reading(self) -> Reading:
        """A new one, with what each process holds where the driver tells."""
        self.machine.watch_processes()
        return await self.fresh_reading()

    def changed(self, resident: Resident) -> None:
        self.monitor.changed(resident)

    def reserve_bytes(self, device: str) -> int:
        settled = self.settings.value.reserve_gb
        return vram.reserve_bytes(
            self.reading, device, None if settled is None else int(settled * GB)
        )

    def held_on_card(self) -> int:
        return sum(entry.held_bytes for entry in self.ledger.entries("cuda:0"))

    def when_idle(self) -> WhenIdle:
        settings = self.settings.value
        return WhenIdle(settings.when_idle, settings.idle_minutes * 60)

    def to_be_had(self, device: str, but: Collection[str] = ()) -> int:
        """Bytes that a load could get there, everything idle gone `but` these residents."""
        return self.ledger.obtainable(device, but)

    def fits_together(self, *wanted: tuple[Listed, dict[str, Any]]) -> bool:
        """Whether these models can be in memory at the same time, others unloaded for them.

        One model with two kinds of load options cannot.
        """
        whole = [(m, complete(m.backend, options)) for m, options in wanted]
        refs = {str(m.ref) for m, _ in whole}
        if len(refs) < len(whole):
            return all(options == whole[0][1] for _, options in whole)
        needs: dict[str, int] = {}
        mine = set()
        for listed, options in whole:
            there = self.resident_of(listed)
            device = self.device_of(listed.backend, options)
            if there and there.options == options:
                mine.add(there.id)
                entry = self.ledger.get(there.id)
                if entry and entry.state == "parked":  # its place is another's now
                    needs[device] = needs.get(device, 0) + entry.returning_bytes
                continue
            new = Resident("", listed.backend, str(listed.ref), options, listed.title,
                           size=size_of(listed))  # fmt: skip
            needs[device] = needs.get(device, 0) + self.need(new, device).bytes
        return all(need <= self.to_be_had(device, mine) for device, need in needs.items())

    # What others read

    async def health(self) -> dict[str, Any]:
        """The body of /healthz for whoever has the token."""
        reading = await self.fresh_reading(age=1.0)
        return {
            "status": "ok",
            "workers": self.supervisor.status(),
            "spare": self.supervisor.spare_state,
            "ledger": self.ledger.snapshot(),
            "jobs": await asyncio.to_thread(self.jobs.health),
            "gpu": reading.to_json(),
            "gate": self.gate.snapshot(),
        }


def size_of(listed: Listed) -> offload.Size:
    return offload.Size(listed.bytes, listed.parameters, listed.layers)


def complete(backend: str, options: dict[str, Any]) -> dict[str, Any]:
    """All load options, the ones not given at their defaults. Raises Refused for a wrong one."""
    try:
        return to_dict(read(BACKENDS[backend].card.load_options, options))
    except ValueError as error:
        raise Refused(*sentences(str(error))) from error


def with_defaults(params: dict[str, Any], listed: Listed) -> dict[str, Any]:
    """The catalogue's settings and system prompt, where the request brings none of its own."""
    has_own = params.get("system") or any(
        m.get("role") == "system" for m in params.get("messages", [])
    )
    system = {} if has_own or not listed.system else {"system": listed.system}
    return {**listed.settings, **params, **system}


def sentences(text: str) -> tuple[str, str]:
    """What happened, and what to do."""
    happened, stop, mend = text.partition(". ")
    return (happened + ".", mend) if stop else (text, "")
