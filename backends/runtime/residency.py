"""Between the ledger and the supervisor: room before a load, entries that are true, idle models
parked, and memory that is known to have come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from backends.base import Refused
from backends.card import vram
from backends.card.ledger import Entry, Ledger
from backends.card.reading import Reading
from backends.events import Done, Event, Notice
from backends.runtime.child import Child
from backends.runtime.resident import Resident, held_bytes
from backends.runtime.spare import SPARE
from backends.runtime.supervisor import Supervisor

GONE = ("crashed", "failed", "stopped", "unloaded")
IDLE_LOOK = 15.0  # seconds between two looks for models that nobody uses
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """What a load takes: bytes on its device at most, those of them that are the CUDA context, and
    bytes in RAM beside, of layers that wait there."""

    bytes: int
    fixed_bytes: int = 0
    ram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WhenIdle:
    """What happens to a model on a GPU after so many seconds without use."""

    do: Literal["park", "unload", "nothing"] = "park"
    seconds: float = 1800.0


class Adviser(Protocol):
    """What whoever has the residents must say of models and of the machine."""

    async def watched_reading(self) -> Reading:
        """A new one, with what each process holds where the driver tells."""

    def device_of(self, backend: str, options: dict[str, Any]) -> str: ...

    def need(self, resident: Resident, device: str) -> Need: ...

    def advice(self, resident: Resident, device: str, hint: str) -> str:
        """`hint` of a refused load, and how the model would fit."""

    def loaded(self, resident: Resident, entry: Entry) -> None:
        """A load has ended: to be measured, before its entry changes."""

    def changed(self, resident: Resident) -> None:
        """Its state is another, and its entry follows that already."""


class Residency:
    """Owner of the supervisor; everything that changes who holds memory goes through here.

    Loads are admitted one at a time, so that what was freed for one is not given to another.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        adviser: Adviser,
        *,
        spare: bool = True,
        when_idle: Callable[[], WhenIdle] = WhenIdle,
    ) -> None:
        self.ledger, self.adviser, self.when_idle = ledger, adviser, when_idle
        self.supervisor = Supervisor(
            folder, spare=spare, make_room=self.make_room, on_change=self.changed,
            on_spare=self.spare_changed, grant=self.grant,
        )  # fmt: skip
        self._admission = asyncio.Lock()
        self._idle_watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.supervisor.start()
        self._idle_watch = asyncio.get_running_loop().create_task(self._watch_idle())

    async def stop(self) -> None:
        if self._idle_watch:
            self._idle_watch.cancel()
        await self.supervisor.stop()

    # Room

    async def make_room(self, resident: Resident) -> AsyncGenerator[Event, None]:
        """Before a load or a return: notices of what goes for it. Raises Refused with numbers."""
        returning = resident.state == "returning"
        async with self._admission:
            await self.adviser.watched_reading()
            self._check_wanted(resident, returning)
            entry = self.ledger.get(resident.id)
            if entry and not returning:  # of an attempt that did not fit
                self.ledger.remove(resident.id)
            device = self.adviser.device_of(resident.backend, resident.as_loaded)
            need = self.adviser.need(resident, device)
            spare = resident.child if device == "cpu" and not returning else None
            has = min(need.bytes, spare.resident_bytes()) if spare else 0  # is there already
            wanted, ram = need.bytes - has, need.ram_bytes
            if entry and returning:
                wanted, ram = entry.returning_bytes, 0
            verdict = self.ledger.admit(
                resident.label, wanted, device, ram, resident.id if returning else ""
            )
            if verdict.refused:
                hint = self.adviser.advice(resident, device, verdict.hint)
                raise Refused(verdict.message, hint)
            for number in verdict.evict:
                if notice := await self._let_go(number, number in verdict.park):
                    yield Notice(notice)
            self._check_wanted(resident, returning)
            if returning:
                self.ledger.come_back(resident.id)
                return
            self.ledger.add(
                id=resident.id, label=resident.label, owner=resident.owner, kind="model",
                device=device, predicted_bytes=need.bytes, measured_bytes=has or None,
                parkable=resident.card.parkable, fixed_bytes=need.fixed_bytes,
                ram_bytes=need.ram_bytes,
            )  # fmt: skip

    async def make_room_for_job(
        self, id: str, label: str, device: str, need: Need, smaller: str = ""
    ) -> list[str]:
        """Before a job starts: idle models go, and it has its entry. Returns what went, in
        sentences. Raises Refused with numbers; `smaller` says there how it would fit."""
        async with self._admission:
            await self.adviser.watched_reading()
            verdict = self.ledger.admit(label, need.bytes, device, need.ram_bytes)
            if verdict.refused:
                raise Refused(verdict.message, smaller or verdict.hint)
            told = [await self._let_go(number, number in verdict.park) for number in verdict.evict]
            self.ledger.add(
                id=id, label=label, owner="finetune", kind="job", device=device,
                predicted_bytes=need.bytes, fixed_bytes=need.fixed_bytes, ram_bytes=need.ram_bytes,
            )  # fmt: skip
            self.ledger.set_busy(id, True)
            return [notice for notice in told if notice]

    def _check_wanted(self, resident: Resident, returning: bool) -> None:
        """It may have been unloaded, or have died, while this waited."""
        wanted = "returning" if returning else "loading"
        if resident.id not in self.supervisor.residents or resident.state != wanted:
            raise Refused(f"{resident.label} is gone meanwhile.", "Send it again.")

    async def _let_go(self, number: str, parked: bool) -> str:
        """Returns what happened, in a sentence; "" where nothing is to be told."""
        if number == SPARE:
            await self.supervisor.drop_spare()
            return ""
        resident, entry = self.supervisor.residents.get(number), self.ledger.get(number)
        if not (resident and entry and (entry.evictable or entry.state == "parked")):
            return ""  # it died, or is at work again: then the ledger is asked once more
        if parked and await self.park(resident):
            return f"{resident.label} was parked in RAM to make room."
        if resident.running:
            raise Refused(f"{resident.label} began to answer just now.", "Wait for its end.")
        if number not in self.supervisor.residents:
            return f"{resident.label} was unloaded to make room."
        back, in_time = await self._unload(resident)
        size = f"{'' if in_time else 'only '}{held_bytes(back) / 1e9:.1f} GB"
        return f"{resident.label} was unloaded to make room: {size} came back."

    async def grant(self, resident: Resident) -> int:
        """How many bytes of the GPU its process may take at this moment; 0: no limit."""
        entry = self.ledger.get(resident.id)
        if entry is None or entry.device == "cpu":
            return 0
        await self.adviser.watched_reading()
        return self.ledger.grant(resident.id)

    # Moves

    async def park(self, resident: Resident) -> bool:
        """Move an idle model to RAM. False where that could not be done; where its memory did not
        come back, its process has ended then."""
        entry = self.ledger.get(resident.id)
        if entry is None or not self.ledger.can_park(entry) or not resident.child:
            return False
        pid, held = resident.child.pid, entry.held_bytes
        before = vram.used(await self.adviser.watched_reading(), entry.device, pid)
        outcome = await self.supervisor.moves.park(resident)
        if not isinstance(outcome, Done):
            if outcome is not None:
                log.warning("%s was not parked: %s", resident.label, outcome)
            return False
        read = self.adviser.watched_reading
        back, in_time = await vram.came_back(read, entry.device, pid, before, held)
        if not in_time and resident.state == "parked":
            log.warning("%s: %d of %d bytes came back by parking", resident.label, back, held)
            await self.supervisor.unload(resident)
            return False
        return True

    async def unload(self, resident: Resident) -> dict[str, int]:
        """Give its memory back for good. Returns what came back, in bytes."""
        back, _ = await self._unload(resident)
        return back

    async def _unload(self, resident: Resident) -> tuple[dict[str, int], bool]:
        """The same, and whether all was back in time. The process ends, killed where it must be;
        what is still missing after that only the driver can have."""
        entry, child = self.ledger.get(resident.id), resident.child
        on_gpu = entry is not None and entry.device != "cpu" and entry.held_bytes > 0
        if not (entry and child and on_gpu):
            return await self.supervisor.unload(resident), True
        before = vram.used(await self.adviser.watched_reading(), entry.device, child.pid)
        back = await self.supervisor.unload(resident)
        freed, in_time = await vram.came_back(
            self.adviser.watched_reading, entry.device, child.pid, before, entry.held_bytes
        )
        if not in_time:
            log.warning("%s: %d of %d bytes came back", entry.label, freed, entry.held_bytes)
        return back | {"cuda_bytes": freed}, in_time

    async def _watch_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_LOOK)
            try:
                await self.look_for_idle()
            except Refused as refused:  # what is free cannot be read just now
                log.warning("idle models were left: %s", refused)

    async def look_for_idle(self) -> None:
        """Park, or unload, what nobody has used for as long as is settled."""
        rule = self.when_idle()
        if rule.do == "nothing":
            return
        async with self._admission:
            for entry in self.ledger.unused(rule.seconds):
                resident = self.supervisor.residents.get(entry.id)
                if resident is None or resident.running:
                    continue
                if rule.do == "unload":
                    await self.unload(resident)
                else:
                    await self.park(resident)

    # What the supervisor tells

    def changed(self, resident: Resident) -> None:
        """Keeps the entry as its resident is."""
        if resident.state in GONE:
            self.ledger.remove(resident.id)
        elif resident.state == "parking":
            self.ledger.park(resident.id)
        elif resident.state == "parked":
            self.ledger.parked(resident.id, resident.parked_bytes)
        elif resident.state == "ready":
            entry = self.ledger.get(resident.id)
            if entry and entry.state == "loading":
                self.adviser.loaded(resident, entry)
            self.ledger.measure(resident.id, resident.held_bytes)  # a run may have made it more
        self.ledger.set_busy(resident.id, resident.state in ("busy", "stuck"))
        self.adviser.changed(resident)

    def spare_changed(self, spare: Child | None) -> None:
        """It has an entry from its first moment: whoever needs the memory more may have it."""
        if spare is None:
            self.ledger.remove(SPARE)
            return
        held = spare.resident_bytes()
        if self.ledger.get(SPARE) is None:
            with contextlib.suppress(Refused):  # the free RAM is not known: it goes without
                self.ledger.add(
                    id=SPARE, label="the warm spare", owner="", kind="spare", device="cpu",
                    predicted_bytes=held, measured_bytes=held, state="ready",
                )  # fmt: skip
        self.ledger.measure(SPARE, held)
