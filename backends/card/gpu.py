"""One reading of this machine, its NVIDIA GPUs first.

`Machine().read()` never raises and never creates a CUDA context: it asks the driver's management
library (`backends/card/nvml.py`). `python -m backends.card.gpu` prints one reading as JSON.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from backends.card.nvml import LOST, NO_GPU, NO_MODULE, Nvml, Power
from backends.card.reading import Gpu, GpuProcess, Host, Reading

__all__ = [
    "LOST",
    "NO_GPU",
    "NO_MODULE",
    "Gpu",
    "GpuProcess",
    "Host",
    "Machine",
    "Power",
    "Reading",
]


class Machine:
    """Reads the machine. `disk` is the folder whose free space counts. Safe from any thread."""

    def __init__(
        self,
        nvml: Any = None,
        disk: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nvml = Nvml(nvml, clock)
        self.disk, self.clock = disk or Path.home(), clock
        self._lock = threading.Lock()
        self._cpu: tuple[float, float] | None = None
        self._processes_until = self.clock()

    def read(self) -> Reading:
        """Everything now, in a few milliseconds. Never raises for what a driver does."""
        with self._lock:
            gpus = self.nvml.read(processes=self.clock() < self._processes_until)
            mode = "cuda" if gpus else "cpu"
            return Reading(self.clock(), mode, self.nvml.message, gpus, self._read_host())

    def power(self, device: str) -> Power:
        """What "cuda:N" has used and uses, in two questions. Unknown of "cpu", or without a card.

        It waits for a reading under way: not for the event loop.
        """
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return Power(self.clock())
        with self._lock:
            return self.nvml.power(int(index or 0))

    def watch_processes(self, seconds: float = 5.0) -> None:
        """Readings of the next `seconds` also say which programs hold memory of the GPUs."""
        self._processes_until = self.clock() + seconds

    def _read_host(self) -> Host:
        memory = psutil.virtual_memory()
        try:
            disk: int | None = shutil.disk_usage(self.disk).free
        except OSError:
            disk = None
        used = memory.total - memory.available
        return Host(self._cpu_percent(), int(used), int(memory.total), disk)

    def _cpu_percent(self) -> float | None:
        """Of all cores since the last reading. Own sums: psutil's are shared by all callers."""
        times = psutil.cpu_times()
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # within user
        total, idle = sum(times) - guest, times.idle + getattr(times, "iowait", 0.0)
        before, self._cpu = self._cpu, (total, idle)
        if before is None or total <= before[0]:
            return None
        share = 1 - (idle - before[1]) / (total - before[0])
        return round(100 * min(1.0, max(0.0, share)), 1)


def main() -> None:
    """Print one reading; the CPU is watched for a fifth of a second first."""
    machine = Machine()
    machine.read()
    machine.watch_processes()
    time.sleep(0.2)
    print(json.dumps(machine.read().to_json(), indent=2))


if __name__ == "__main__":
    main()
