"""What a job took from the card, by its own process: the driver is asked, no CUDA context made."""

from __future__ import annotations

import threading

from backends.card.energy import PACE, Tally
from backends.card.gpu import Machine

RUN = "job"


class Meter:
    """Watt-hours since it was made, on one device; None of a CPU, or where the card cannot tell.

    What else runs on the card meanwhile is counted as well: a job has it to itself.
    """

    def __init__(self, device: str, machine: Machine | None = None) -> None:
        self.device, self.tally, self._hours = device, Tally(), 0.0
        self._known, self._over = device.startswith("cuda"), threading.Event()
        self._one = threading.Lock()
        self._watching: threading.Thread | None = None
        if not self._known:
            return
        self.machine = machine or Machine()
        self.machine.read()  # opens the connection
        power = self.machine.power(device)
        self.tally.begin(RUN, power)
        if power.energy_j is None and power.power_w is not None:  # watts must be asked for often
            self._watching = threading.Thread(target=self._watch, daemon=True)
            self._watching.start()

    def so_far(self) -> float | None:
        with self._one:
            if self._known:
                power = self.machine.power(self.device)
                used = self.tally.end(RUN, power)
                self._known = used is not None
                self._hours += used or 0.0
                self.tally.begin(RUN, power)
            return self._hours if self._known else None

    def close(self) -> float | None:
        """The last figure; the card is asked no more."""
        self._over.set()
        if self._watching:
            self._watching.join()
        return self.so_far()

    def _watch(self) -> None:
        while not self._over.wait(PACE):
            with self._one:
                self.tally.look(self.machine.power(self.device))
