"""What one reading of the machine holds. What the driver does not tell is None, never 0."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psutil

from backends.base import Refused


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One program with memory on a GPU. `name` is empty where the system does not tell, `bytes`
    None where the driver does not (Windows' WDDM, WSL)."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment. None: the driver does not tell. `error` is a sentence, or empty.

    Indices are NVML's (by PCI bus); `uuid` names the card for good. `used_bytes` leaves out what
    the driver reserves for itself, as nvidia-smi does, so used + free is less than total.
    slowdown_c: the temperature at which the card slows down by itself
    throttled: what holds the clocks down, in words (`nvml.REASONS`); empty where nothing does
    energy_j: joules since the driver was loaded
    display: whether a screen hangs on it
    processes: only while somebody looks at them (`Machine.watch_processes`)
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    busy_percent: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    fan_percent: int | None = None
    slowdown_c: int | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    throttled: tuple[str, ...] | None = None
    energy_j: float | None = None
    display: bool | None = None
    processes: tuple[GpuProcess, ...] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The computer around it. `cpu_percent` is of all cores, since the reading before."""

    cpu_percent: float | None
    ram_used_bytes: int | None
    ram_total_bytes: int | None
    disk_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment. `at` is in seconds of a clock that never jumps; `mode` is cuda or cpu."""

    at: float
    mode: str
    message: str
    gpus: tuple[Gpu, ...]
    host: Host
    seq: int = 0

    @property
    def has_gpu(self) -> bool:
        """There was a GPU that answered."""
        return any(not gpu.error for gpu in self.gpus)

    def free_bytes(self, device: str) -> int:
        """Free memory of "cuda:N" then, of "cpu" now. Raises Refused where that is not known."""
        if device == "cpu":
            return int(psutil.virtual_memory().available)
        gpus = {f"cuda:{gpu.index}": gpu for gpu in self.gpus}
        gpu = gpus.get("cuda:0" if device == "cuda" else device)
        if gpu is None or gpu.free_bytes is None:
            reason = gpu.error if gpu else self.message
            raise Refused(f"The free memory of {device} cannot be read.", reason or "Use the CPU.")
        return gpu.free_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names, null where unknown."""
        return asdict(self)
