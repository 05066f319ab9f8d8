"""What an answer, an image or a job took from the card, in watt-hours.

The driver counts joules (NVML's total energy): the difference between begin and end is exact. A
card without that counter is asked for its watts four times a second while something runs. What
runs at the same time on one card shares what the card uses, its idle power included. Without
a card, or with a gap in what is known, the answer is None: nothing is ever guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.card.nvml import Power

PACE = 0.25  # seconds between two questions for watts
LONGEST_GAP = 2.0  # seconds between two watts that are still joined by a line
PATIENCE = 0.5  # seconds that the end of an answer waits for the driver
JOULES = 3600.0  # in a watt-hour


class Tally:
    """One card's energy, shared out among what runs on it. Pure.

    A job in a process of its own does `begin`, at each step `look`, at last `end`, each with
    `Machine().power(device)`.
    """

    def __init__(self) -> None:
        self._last: Power | None = None
        self._joules: dict[str, float | None] = {}  # by run; None: some of it is not known

    @property
    def running(self) -> bool:
        return bool(self._joules)

    def begin(self, run: str, power: Power) -> None:
        self.look(power)
        known = power.energy_j is not None or power.power_w is not None
        self._joules[run] = 0.0 if known else None

    def end(self, run: str, power: Power) -> float | None:
        """Watt-hours since its begin."""
        self.look(power)
        joules = self._joules.pop(run, None)
        return None if joules is None else joules / JOULES

    def look(self, power: Power) -> None:
        """Share out what the card used since the last time."""
        last, self._last = self._last, power
        if not self._joules or last is None:
            return
        used = _between(last, power)
        many = len(self._joules)
        self._joules = {
            run: None if used is None or joules is None else joules + used / many
            for run, joules in self._joules.items()
        }


def _between(first: Power, second: Power) -> float | None:
    """Joules from one moment to the next, None where that cannot be said."""
    if first.energy_j is not None and second.energy_j is not None:
        used = second.energy_j - first.energy_j
        return used if used >= 0 else None  # below: the driver was loaded again
    seconds = second.at - first.at
    if first.power_w is None or second.power_w is None or not 0 <= seconds <= LONGEST_GAP:
        return None
    return seconds * (first.power_w + second.power_w) / 2


class Energy:
    """Measures runs in the event loop; `read(device)` asks the driver, in a thread."""

    def __init__(self, read: Callable[[str], Power], pace: float = PACE) -> None:
        self.read, self.pace = read, pace
        self._tallies: dict[str, Tally] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._begins: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[float | None]] = set()  # one that nobody holds may vanish

    def begin(self, run: str, device: str) -> None:
        """`run` starts on `device` now. Nobody waits for the driver. Nothing happens on a CPU."""
        if device.startswith("cuda"):
            self._begins[run] = (device, asyncio.create_task(self._begin(run, device)))

    async def end(self, run: str) -> float | None:
        """Watt-hours since its begin; None where they are not known, or not within `PATIENCE`."""
        device, begun = self._begins.pop(run, ("", None))
        if begun is None:
            return None
        ending = self._leave(run, device, begun)
        await asyncio.wait({ending}, timeout=PATIENCE)  # it goes on: the run must leave the tally
        return ending.result() if ending.done() and not ending.cancelled() else None

    def abandon(self, run: str) -> None:
        """It broke off, and nobody asks what it took. Returns at once."""
        device, begun = self._begins.pop(run, ("", None))
        if begun is not None:
            self._leave(run, device, begun)

    def _leave(
        self, run: str, device: str, begun: asyncio.Task[None]
    ) -> asyncio.Task[float | None]:
        task = asyncio.create_task(self._end(run, device, begun))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def _begin(self, run: str, device: str) -> None:
        tally = self._tallies.setdefault(device, Tally())
        async with self._lock(device):
            power = await asyncio.to_thread(self.read, device)
            tally.begin(run, power)
        if power.energy_j is None and power.power_w is not None and device not in self._watching:
            self._watching[device] = asyncio.create_task(self._watch(device, tally))

    async def _end(self, run: str, device: str, begun: asyncio.Task[None]) -> float | None:
        await begun
        async with self._lock(device):
            return self._tallies[device].end(run, await asyncio.to_thread(self.read, device))

    async def _watch(self, device: str, tally: Tally) -> None:
        while tally.running:
            await asyncio.sleep(self.pace)
            async with self._lock(device):
                tally.look(await asyncio.to_thread(self.read, device))
        del self._watching[device]

    def _lock(self, device: str) -> asyncio.Lock:
        """One question at a time: answers stay in order, and a driver that hangs holds one thread
        and no more."""
        return self._locks.setdefault(device, asyncio.Lock())


def in_words(watt_hours: float) -> str:
    """Such as "0.02 Wh": two digits that count, three decimals at most."""
    if watt_hours < 0.001:
        return "< 0.001 Wh"
    digits = 0 if watt_hours >= 10 else 1 if watt_hours >= 1 else 2 if watt_hours >= 0.01 else 3
    return f"{watt_hours:.{digits}f} Wh"
