"""What the strip and the panel show beside the readings, and what is measured while models work.

One per bench. `changed` hears of residents as the bench does, `metered` stands around a run's
events, `answer` is the body of `/api/gpu`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from backends.card.activity import Activity
from backends.card.alerts import Alerts, Speed
from backends.card.energy import Energy
from backends.card.speeds import Pace, Speeds
from backends.events import Done, Event, Progress, Text
from backends.runtime.resident import Resident
from webui.gpu_panel import resident as holder

if TYPE_CHECKING:
    from webui.bench import Bench

AT_WORK = ("busy", "stuck")
AWAY = ("parking", "parked", "returning")  # the ledger's states that a resident does not know


class Monitor:
    """Lives in the server's event loop."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.activity = Activity(bench.machine.clock)
        self.alerts = Alerts()
        self.energy = Energy(bench.machine.power)
        self.speeds = Speeds(bench.measured)
        self._slow: dict[str, Speed] = {}  # by device, of what ran there last
        self._looked = 0  # the number of the last reading that the alerts saw
        self._runs = 0

    def changed(self, resident: Resident) -> None:
        """A resident has a new state: what it does is a band in the charts."""
        if resident.state == "loading":
            self._band(resident, "load")
        elif resident.state in AT_WORK:
            self._band(resident, resident.owner or resident.card.task)
        else:
            self.activity.end(resident.id)

    async def metered(
        self, resident: Resident, params: dict[str, Any], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The events of one run, Done with `energy_wh` in its usage where the card tells.

        Closing this iterator closes `events`.
        """
        async with contextlib.aclosing(events):
            if params.get("count_only"):  # no work
                async for event in events:
                    yield event
                return
            self._runs += 1
            run, device = f"{resident.id}/{self._runs}", self._device(resident)
            pace, key, step = Pace(), self._speed_key(resident, device), 0.0
            self.energy.begin(run, device)
            energy, over = None, False
            try:
                async for event in events:
                    if isinstance(event, Done):
                        energy, over = await self.energy.end(run), True
                        if energy is not None:
                            used = {**event.usage, "energy_wh": round(energy, 6)}
                            event = replace(event, usage=used)
                    elif isinstance(event, Text):
                        self._note_speed(resident, device, key, pace, 1)
                    elif isinstance(event, Progress) and resident.card.task == "image":
                        self._note_speed(resident, device, key, pace, max(0.0, event.step - step))
                        step = event.step
                    yield event
            finally:
                self.activity.add_run(resident.id, energy)
                if not over:
                    self.energy.abandon(run)

    def _note_speed(
        self, resident: Resident, device: str, key: str, pace: Pace, count: float
    ) -> None:
        if device == "cpu" or (speed := pace.add(count, time.monotonic())) is None:
            return
        self._slow[device] = Speed(resident.label, self.speeds.share(key, speed))

    def _speed_key(self, resident: Resident, device: str) -> str:
        options = ", ".join(f"{k}={v}" for k, v in sorted(resident.as_loaded.items()))
        return f"{resident.backend} {resident.model} on {device} ({options})"

    def _band(self, resident: Resident, kind: str) -> None:
        self.activity.begin(resident.id, kind, resident.label, self._device(resident))

    def _device(self, resident: Resident) -> str:
        entry = self.bench.ledger.get(resident.id)
        return entry.device if entry else self.bench.device_of(resident.backend, resident.options)

    # What is shown

    def holders(self) -> list[dict[str, Any]]:
        """Who holds memory: residents, then jobs and the spare, which only the ledger knows."""
        rows = {row["id"]: row for row in self.bench.ledger.snapshot()}
        found = []
        for r in self.bench.supervisor.residents.values():
            row = rows.pop(r.id, {})
            away = row.get("state") in AWAY
            held = row.get("parked_bytes") or row.get("measured_bytes") if away else r.held_bytes
            found.append(holder(
                r.label, held or None, row["state"] if away else r.state, id=r.id, kind="model",
                owner=r.owner or r.card.task, device=row.get("device") or self._device(r),
                pid=r.child.pid if r.child and r.child.alive else None,
            ))  # fmt: skip
        for row in rows.values():
            state = "busy" if row["busy"] else row["state"]
            more = {k: row[k] for k in ("id", "kind", "owner", "device")}
            found.append(holder(row["label"], row["measured_bytes"], state, **more))
        return found

    def answer(self, seq: int, panel: bool) -> dict[str, Any]:
        """Readings newer than `seq`, who holds memory, alerts, what is shared; for the open panel
        also what ran and the programs on each GPU (from the next reading on)."""
        bench = self.bench
        if panel:
            bench.machine.watch_processes()
        answer = bench.sampler.since(seq)
        self._look()
        answer |= {
            "now": bench.machine.clock(),
            "residents": self.holders(),
            "alerts": [asdict(alert) for alert in self.alerts.shown()],
            "share": bench.sharing.brief(),
        }
        return answer | {"activity": self.activity.to_json()} if panel else answer

    def _look(self) -> None:
        latest = self.bench.sampler.latest()
        if latest and latest.seq != self._looked:
            self._looked = latest.seq
            self.alerts.look(latest, self._slow)
            self._slow.clear()
