"""Who holds how much memory, and whether one more fits. The only place that says yes.

Pure code: what is free comes from a function, the time from another. A load first asks `admit`,
unloads what the verdict names, then says `add`; when it is there, `measure`. Loads under way count
with what they have not taken yet, so that two loads at once are never promised the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.base import Refused

Kind = Literal["model", "job", "spare"]
State = Literal["loading", "ready", "parked"]
GB = 2**30
# Left free for the desktop and everybody else, in bytes, by device or by its kind.
RESERVE = {"cpu": GB, "cuda": GB // 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """One holder of memory. `predicted_bytes` was asked for, `measured_bytes` was found.

    `owner` is the tab it belongs to, `device` "cpu" or "cuda:N"; times are of the ledger's clock.
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

    @property
    def held_bytes(self) -> int:
        """What its device gets back when it goes."""
        if self.state == "parked":
            return 0
        if self.state == "loading":
            return self.measured_bytes or 0
        return self.predicted_bytes if self.measured_bytes is None else self.measured_bytes

    @property
    def pending_bytes(self) -> int:
        """What it was promised and has not taken yet. A job's peak may come at any step."""
        if self.state == "loading" or (self.kind == "job" and self.state == "ready"):
            return max(0, self.predicted_bytes - (self.measured_bytes or 0))
        return 0

    @property
    def evictable(self) -> bool:
        return self.kind != "job" and not self.busy and self.state == "ready"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Go where `evict` is empty and nothing is refused; else unload those ids first, in order."""

    need_bytes: int
    available_bytes: int
    evict: tuple[str, ...] = ()
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
        # What was admitted since the last `add`, by label, bytes and device.
        self._admitted: dict[tuple[str, int, str], Verdict] = {}

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
                "held_seconds": round(now - e.since, 1),
                "unused_seconds": 0.0 if e.busy else round(now - e.last_used, 1),
                "busy": e.busy, "state": e.state,
            }
            for e in self._entries.values()
        ]  # fmt: skip

    def available(self, device: str) -> int:
        """What can still be promised there, in bytes; below 0 where others took more."""
        pending = sum(e.pending_bytes for e in self.entries(device))
        return self.free(device) - self._reserve(device) - pending

    def admit(self, label: str, need_bytes: int, device: str) -> Verdict:
        """Whether `need_bytes` more fit. Promises nothing yet: that is `add`.

        Named for eviction are idle entries of the device: spares first, then models, each least
        recently used first, and none in vain. Jobs and the busy are never named. A refusal holds
        what is missing and what would help, in two sentences. Raises Refused where the free memory
        cannot be read.
        """
        verdict = self._judge(label, need_bytes, device)
        if not verdict.refused:
            self._admitted[label, need_bytes, device] = verdict
        return verdict

    def _judge(self, label: str, need_bytes: int, device: str) -> Verdict:
        available = self.available(device)
        if need_bytes <= available:
            return Verdict(need_bytes, available)
        idle = [e for e in self.entries(device) if e.evictable and e.held_bytes > 0]
        idle.sort(key=lambda e: (e.kind != "spare", e.last_used))
        chosen = _enough(idle, need_bytes - available)
        if chosen:
            return Verdict(need_bytes, available, tuple(e.id for e in chosen))
        message, hint = self._explain(label, need_bytes, device, available, idle)
        return Verdict(need_bytes, available, (), message, hint)

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
    ) -> Entry:
        """Write down a load that was admitted, or what runs already (measured, or not loading).

        Raises Refused where another load was written down since it was admitted and took the
        bytes. Otherwise nothing is asked again: what was unloaded for it may come back late.
        """
        now = self.clock()
        entry = Entry(
            id, label, owner, kind, device, predicted_bytes, measured_bytes, now, now, state=state
        )
        admitted = self._admitted.get((label, entry.pending_bytes, device))
        holds = admitted is not None and not any(self._stands(other) for other in admitted.evict)
        if entry.pending_bytes and not holds:
            verdict = self._judge(label, entry.pending_bytes, device)
            if not verdict.go:
                raise Refused(
                    verdict.message or f"Another load took the memory that {label} was to get.",
                    verdict.hint or "Load it again.",
                )
        if entry.pending_bytes:
            self._admitted.clear()
        self._entries[id] = entry
        return entry

    def measure(self, id: str, measured_bytes: int, state: State = "ready") -> None:
        """What the worker found it holds; "loading" for a number on the way. Unknown ids: no-op."""
        self._change(id, measured_bytes=max(0, measured_bytes), state=state)

    def set_state(self, id: str, state: State) -> None:
        self._change(id, state=state)

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

    def _stands(self, id: str) -> bool:
        entry = self._entries.get(id)
        return entry is not None and entry.state != "parked"

    def _reserve(self, device: str) -> int:
        if callable(self.reserve_bytes):
            return self.reserve_bytes(device)
        kind = device.partition(":")[0]
        return self.reserve_bytes.get(device, self.reserve_bytes.get(kind, 0))

    def _explain(
        self, label: str, need: int, device: str, available: int, idle: list[Entry]
    ) -> tuple[str, str]:
        place = "memory" if device == "cpu" else f"memory of {device}"
        best = max(0, available + sum(e.held_bytes for e in idle))
        also = f", even with {_names(idle)} unloaded" if idle else ""
        message = f"{label} needs {_gb(need)} of {place}, and {_gb(best)} can be had{also}."
        smaller = "choose a smaller or 4-bit model or a shorter context"
        others = [e for e in self.entries(device) if not e.evictable and e.state != "parked"]
        jobs = [e for e in others if e.kind == "job"]
        working = [e for e in others if e.kind != "job"]
        ways = [f"pause or await {_names(jobs)}"] if jobs else []
        ways += [f"wait for {_names(working)}"] if working else []
        ways += [smaller]
        ways += ["use the CPU"] if device != "cpu" else ["close other programs"]
        hint = ", ".join(ways[:-1]) + ", or " + ways[-1] + "."
        return message, hint[0].upper() + hint[1:]


def _enough(idle: list[Entry], missing: int) -> list[Entry]:
    """The first of `idle` that free `missing` bytes together, without those not needed for it."""
    chosen: list[Entry] = []
    for entry in idle:
        chosen.append(entry)
        if sum(e.held_bytes for e in chosen) >= missing:
            break
    else:
        return []
    for entry in reversed(chosen[:-1]):  # the last one was needed, or the loop had ended before
        if sum(e.held_bytes for e in chosen) - entry.held_bytes >= missing:
            chosen.remove(entry)
    return chosen


def _names(entries: list[Entry]) -> str:
    names = [f"{e.label} ({_gb(max(e.held_bytes, e.predicted_bytes))})" for e in entries]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 2**20:.0f} MB"
