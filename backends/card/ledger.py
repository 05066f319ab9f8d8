"""Who holds how much memory, and whether one more fits. The only place that says yes.

Pure code: what is free comes from a function, the time from another. A load first asks `admit`,
parks or unloads what the verdict names, then says `add`; when it is there, `measure`. A promise
holds for as long as its holder is on the device: what it has not taken yet is nobody else's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.base import Refused

Kind = Literal["model", "job", "spare"]
# parking: on its way into RAM, and counted on both sides; returning: on its way back.
State = Literal["loading", "ready", "parking", "parked", "returning"]
GB = 2**30
# Left free for the desktop and everybody else, in bytes, by device or by its kind.
RESERVE = {"cpu": GB, "cuda": GB // 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """One holder of memory. `predicted_bytes` was asked for, `measured_bytes` was found.

    `owner` is the tab it belongs to, `device` "cpu" or "cuda:N"; times are of the ledger's clock.
    fixed_bytes   of the predicted, the CUDA context: measured with nobody, gone with its process
    ram_bytes     in RAM beside its device, of layers that wait there
    parked_bytes  what it holds in RAM while it is parked, or will
    """

    id: str
    label: str
    owner: str
    kind: Kind
    device: str
    predicted_bytes: int
    measured_bytes: int | None
    since: float
    last_used: float
    busy: bool = False
    state: State = "loading"
    parkable: bool = False
    fixed_bytes: int = 0
    ram_bytes: int = 0
    parked_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """What its device gets back when it goes."""
        if self.state in ("parked", "returning"):
            return 0
        if self.state == "loading":
            return self.measured_bytes or 0
        return self.predicted_bytes if self.measured_bytes is None else self.measured_bytes

    @property
    def pending_bytes(self) -> int:
        """What it was promised on its device and has not taken yet."""
        return self.pending_on(self.device)

    def pending_on(self, device: str) -> int:
        """The same on any device: a model that is being parked was promised RAM."""
        if device != self.device:
            beside = {"loading": self.ram_bytes, "parking": self.parked_bytes}
            return beside.get(self.state, 0) if device == "cpu" else 0
        if self.state == "loading":
            return max(0, self.predicted_bytes - (self.measured_bytes or 0))
        if self.state == "returning":
            return self.returning_bytes
        if self.state == "ready" and self.measured_bytes is not None:
            return max(0, self.predicted_bytes - self.fixed_bytes - self.measured_bytes)
        return 0

    @property
    def returning_bytes(self) -> int:
        """What a parked one needs on its device to come back: its promise, or what it had if that
        was more."""
        return max(0, self.predicted_bytes - self.fixed_bytes, self.measured_bytes or 0)

    @property
    def evictable(self) -> bool:
        return self.kind != "job" and not self.busy and self.state == "ready"

    def freed_on(self, device: str, unloaded: bool = True) -> int:
        """What others can be promised there when it is unloaded, or else parked."""
        if device == self.device:
            process = self.fixed_bytes if unloaded else 0
            return self.held_bytes + self.pending_bytes + process
        in_ram = self.ram_bytes + (self.parked_bytes if self.state == "parked" else 0)
        return in_ram if device == "cpu" and unloaded else 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Go where `evict` is empty and nothing is refused; else make those ids go first, in order.

    Of these, the ones in `park` are moved to RAM, the others unloaded.
    """

    need_bytes: int
    available_bytes: int
    evict: tuple[str, ...] = ()
    park: frozenset[str] = frozenset()
    message: str = ""
    hint: str = ""

    @property
    def refused(self) -> bool:
        return bool(self.message)

    @property
    def go(self) -> bool:
        return not self.evict and not self.refused


class Ledger:
    """Entries by id. `free(device)` is what the device has free now, in bytes, by its driver.

    `reserve_bytes` stays free: a table by device ("cuda:0") or its kind ("cuda"), or a function.
    Not for several threads: it belongs to the event loop.
    """

    def __init__(
        self,
        free: Callable[[str], int],
        reserve_bytes: Mapping[str, int] | Callable[[str], int] = RESERVE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.free, self.reserve_bytes, self.clock = free, reserve_bytes, clock
        self._entries: dict[str, Entry] = {}
        # What was admitted since the last promise: by label, bytes on the device and in RAM.
        self._admitted: dict[tuple[str, int, int, str], Verdict] = {}

    def entries(self, device: str = "") -> tuple[Entry, ...]:
        """All entries, or those on one device, in the order in which they came."""
        return tuple(e for e in self._entries.values() if device in ("", e.device))

    def get(self, id: str) -> Entry | None:
        return self._entries.get(id)

    def snapshot(self) -> list[dict[str, Any]]:
        """All entries as plain JSON; times are seconds ago."""
        now = self.clock()
        return [
            {
                "id": e.id, "label": e.label, "owner": e.owner, "kind": e.kind, "device": e.device,
                "predicted_bytes": e.predicted_bytes, "measured_bytes": e.measured_bytes,
                "parked_bytes": e.parked_bytes if e.state == "parked" else 0,
                "ram_bytes": e.ram_bytes,
                "held_seconds": round(now - e.since, 1),
                "unused_seconds": 0.0 if e.busy else round(now - e.last_used, 1),
                "busy": e.busy, "state": e.state,
            }
            for e in self._entries.values()
        ]  # fmt: skip

    def available(self, device: str) -> int:
        """What can still be promised there, in bytes; below 0 where others took more."""
        pending = sum(e.pending_on(device) for e in self._entries.values())
        return self.free(device) - self._reserve(device) - pending

    def obtainable(self, device: str, but: Collection[str] = ()) -> int:
        """The same with everything idle gone from there `but` these."""
        idle = self._idle(device, but)
        return self.available(device) + sum(e.freed_on(device) for e in idle)

    def admit(
        self, label: str, need_bytes: int, device: str, ram_bytes: int = 0, returns: str = ""
    ) -> Verdict:
        """Whether `need_bytes` more fit, and `ram_bytes` beside them in RAM. Promises nothing yet:
        that is `add`, or `come_back` for a parked one, which says its id here (`returns`).

        Named to go are idle entries: spares first, then models, each least recently used first,
        and none in vain; parked where they can be and RAM has room, else unloaded. Jobs and the
        busy are never named. A refusal holds what is missing and what would help, in two
        sentences. Raises Refused where the free memory cannot be read.
        """
        verdict = self._judge(label, need_bytes, device, ram_bytes, returns)
        if not verdict.refused:
            self._admitted[label, need_bytes, ram_bytes, device] = verdict
        return verdict

    def _judge(self, label: str, need: int, device: str, ram: int, returns: str) -> Verdict:
        if device == "cpu":
            need, ram = need + ram, 0
        available = self.available(device)
        chosen: list[Entry] = []
        parked: set[str] = set()
        room, may_park = 0, True
        if need > available:
            chosen, may_park = self._go_from(device, need - available, returns)
            if not chosen:
                return self._refusal(label, need, device, available, returns)
        if device != "cpu" and (chosen or ram):
            room = self.available("cpu") - ram
            room = self._choose_parking(chosen, parked, room, may_park)
        if ram and room < 0:
            gone = {e.id for e in chosen} | {returns}
            more = _enough(self._idle("cpu", gone), -room, "cpu")
            if not more:
                return self._refusal(label, ram, "cpu", room + ram, returns)
            chosen = more + chosen
        return Verdict(need, available, tuple(e.id for e in chosen), frozenset(parked))

    def _idle(self, device: str, but: Collection[str]) -> list[Entry]:
        """Those that can go from there and leave something, the first to go first."""
        found = [
            e for e in self._entries.values()
            if e.id not in but and (e.evictable or e.state == "parked") and e.freed_on(device) > 0
        ]  # fmt: skip
        return sorted(found, key=lambda e: (e.kind != "spare", e.last_used))

    def _go_from(self, device: str, missing: int, returns: str) -> tuple[list[Entry], bool]:
        """Who goes for so many bytes, and whether they may be parked: the models that are there;
        only where that is not enough also the processes of parked ones, for the CUDA context that
        each of them holds."""
        idle = self._idle(device, (returns,))
        there = [e for e in idle if e.device == device and e.state == "ready"]
        if device != "cpu" and (found := _enough(there, missing, device, unloaded=False)):
            return found, True
        return _enough(idle, missing, device), False

    def _choose_parking(
        self, chosen: list[Entry], parked: set[str], room: int, may_park: bool
    ) -> int:
        """Which of `chosen` are parked, as far as `room` bytes of RAM reach, the warm spare's
        included, which then goes as well. Returns what is left of the room."""
        spare = next((e for e in self._entries.values() if e.kind == "spare" and e.evictable), None)
        for entry in list(chosen):
            size = entry.held_bytes
            if may_park and entry.parkable and size > 0:
                if spare and spare not in chosen and room < size <= room + spare.held_bytes:
                    chosen.insert(0, spare)
                    room += spare.held_bytes
                if size <= room:
                    parked.add(entry.id)
                    room -= size
                    continue
            room += entry.freed_on("cpu")
        return room

    def add(
        self,
        *,
        id: str,
        label: str,
        owner: str,
        kind: Kind,
        device: str,
        predicted_bytes: int,
        measured_bytes: int | None = None,
        state: State = "loading",
        parkable: bool = False,
        fixed_bytes: int = 0,
        ram_bytes: int = 0,
        running: bool = False,
    ) -> Entry:
        """Write down a load that was admitted, or what runs already (measured, or not loading).

        Raises Refused where another load was written down since it was admitted and took the
        bytes. Otherwise nothing is asked again: what was unloaded for it may come back late.
        `running`: it has its memory whatever is said here, such as a job of an earlier page.
        """
        now = self.clock()
        entry = Entry(
            id, label, owner, kind, device, predicted_bytes, measured_bytes, now, now, state=state,
            parkable=parkable and device != "cpu", fixed_bytes=fixed_bytes, ram_bytes=ram_bytes,
        )  # fmt: skip
        if not running:
            ram = entry.pending_on("cpu") if ram_bytes else 0
            self._promise(label, entry.pending_bytes, ram, device)
        self._entries[id] = entry
        return entry

    def come_back(self, id: str) -> None:
        """Promise a parked one its place on the device again, once it was admitted. Raises Refused
        as `add` does. Unknown ids, and such as are not parked: no-op."""
        entry = self._entries.get(id)
        if entry and entry.state == "parked":
            back = replace(entry, state="returning", last_used=self.clock())
            self._promise(entry.label, back.pending_bytes, 0, entry.device, id)
            self._entries[id] = back

    def _promise(self, label: str, need: int, ram: int, device: str, returns: str = "") -> None:
        if need <= 0:
            return
        admitted = self._admitted.get((label, need, ram, device))
        holds = admitted is not None and not any(self._stands(i, admitted) for i in admitted.evict)
        if not holds:
            verdict = self._judge(label, need, device, ram, returns)
            if not verdict.go:
                raise Refused(
                    verdict.message or f"Another load took the memory that {label} was to get.",
                    verdict.hint or "Load it again.",
                )
        self._admitted.clear()

    def can_park(self, entry: Entry) -> bool:
        """It is idle, it has a way to be parked, and RAM has room for it."""
        return entry.evictable and entry.parkable and entry.held_bytes <= self.available("cpu")

    def unused(self, seconds: float) -> tuple[Entry, ...]:
        """The models on a GPU that nobody has used for so long, the longest first."""
        now = self.clock()
        idle = [e for e in self._entries.values() if e.evictable and e.device != "cpu"]
        idle = [e for e in idle if e.kind == "model" and now - e.last_used >= seconds]
        return tuple(sorted(idle, key=lambda e: e.last_used))

    def grant(self, id: str) -> int:
        """What its process may hold on its GPU now, the CUDA context apart: what it was promised,
        and its part of what is left, shared with all that work there. 0: no limit is known."""
        entry = self._entries.get(id)
        if entry is None or entry.device == "cpu":
            return 0
        at_work = {
            e.id for e in self.entries(entry.device)
            if e.busy or e.kind == "job" or e.state in ("loading", "returning")
        }  # fmt: skip
        own = max(entry.predicted_bytes - entry.fixed_bytes, entry.held_bytes)
        try:
            left = max(0, self.available(entry.device))
        except Refused:  # the driver does not say what is free
            return 0
        return own + left // len(at_work | {id})

    def measure(self, id: str, measured_bytes: int, state: State = "ready") -> None:
        """What the worker found it holds; "loading" for a number on the way. Unknown ids: no-op."""
        self._change(id, measured_bytes=max(0, measured_bytes), state=state)

    def set_state(self, id: str, state: State) -> None:
        self._change(id, state=state)

    def park(self, id: str) -> None:
        """It is about to be moved: from now on it is promised RAM. Unknown ids: no-op."""
        if entry := self._entries.get(id):
            self._change(id, state="parking", parked_bytes=entry.held_bytes)

    def parked(self, id: str, ram_bytes: int) -> None:
        """It lies in RAM, with so many bytes. Unknown ids: no-op."""
        self._change(id, state="parked", parked_bytes=max(0, ram_bytes))

    def set_busy(self, id: str, busy: bool) -> None:
        """Begin and end of a run; both count as use. Unknown ids: no-op."""
        entry = self._entries.get(id)
        if entry and entry.busy != busy:
            self._change(id, busy=busy, last_used=self.clock())

    def remove(self, id: str) -> None:
        """It is gone: unloaded, or its worker died. Unknown ids: no-op."""
        self._entries.pop(id, None)

    def _change(self, id: str, **values: object) -> None:
        if id in self._entries:
            self._entries[id] = replace(self._entries[id], **values)  # type: ignore[arg-type]

    def _stands(self, id: str, verdict: Verdict) -> bool:
        """It was to go, and is there still."""
        entry = self._entries.get(id)
        return entry is not None and (id not in verdict.park or entry.state != "parked")

    def _reserve(self, device: str) -> int:
        if callable(self.reserve_bytes):
            return self.reserve_bytes(device)
        kind = device.partition(":")[0]
        return self.reserve_bytes.get(device, self.reserve_bytes.get(kind, 0))

    def _refusal(self, label: str, need: int, device: str, available: int, returns: str) -> Verdict:
        idle = self._idle(device, (returns,))
        place = "memory" if device == "cpu" else f"memory of {device}"
        best = max(0, available + sum(e.freed_on(device) for e in idle))
        also = f", even with {_names(idle)} unloaded" if idle else ""
        message = f"{label} needs {_gb(need)} of {place}, and {_gb(best)} can be had{also}."
        smaller = "choose a smaller or 4-bit model or a shorter context"
        others = [e for e in self.entries(device) if e not in idle and e.id != returns]
        jobs = [e for e in others if e.kind == "job"]
        working = [e for e in others if e.kind != "job" and e.state != "parked"]
        ways = [f"wait for {_names(jobs)}, pause it"] if jobs else []
        ways += [f"wait for {_names(working)}"] if working else []
        cpu = ["use the CPU"] if device != "cpu" else ["close other programs"]
        ways += [*cpu, smaller] if jobs else [smaller, *cpu]
        hint = ", ".join(ways[:-1]) + ", or " + ways[-1] + "."
        return Verdict(need, available, message=message, hint=hint[0].upper() + hint[1:])


def _enough(idle: list[Entry], missing: int, device: str, unloaded: bool = True) -> list[Entry]:
    """The first of `idle` that free `missing` bytes together, without those not needed for it."""

    def freed(entries: list[Entry]) -> int:
        return sum(e.freed_on(device, unloaded or not e.parkable) for e in entries)

    chosen: list[Entry] = []
    for entry in idle:
        chosen.append(entry)
        if freed(chosen) >= missing:
            break
    else:
        return []
    for entry in reversed(chosen[:-1]):  # the last one was needed, or the loop had ended before
        rest = [e for e in chosen if e is not entry]
        if freed(rest) >= missing:
            chosen = rest
    return chosen


def _names(entries: list[Entry]) -> str:
    names = [f"{e.label} ({_gb(max(e.held_bytes, e.predicted_bytes))})" for e in entries]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 2**20:.0f} MB"
