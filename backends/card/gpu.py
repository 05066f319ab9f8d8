"""One reading of this machine, its NVIDIA GPUs first, and the one funnel for NVML's errors.

`Machine().read()` never raises and never creates a CUDA context: it asks the driver's management
library (NVML, through nvidia-ml-py's module `pynvml`). What the driver does not tell is None,
never 0. `python -m backends.card.gpu` prints one reading as JSON.
"""

from __future__ import annotations

import importlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from backends.base import Refused

NO_GPU = "no NVIDIA GPU found: CPU mode"
NO_MODULE = (
    "The package nvidia-ml-py is missing, so no GPU can be read: CPU mode. "
    "Run python launch.py doctor to see how to install it."
)
LOST = "The driver lost this GPU. Restart the computer."
# By NVML's error number (nvmlReturn_t in nvml.h, a stable interface).
TROUBLES = {
    4: "This user may not talk to the NVIDIA driver: CPU mode. Ask the administrator for access.",
    9: "No NVIDIA driver is loaded: CPU mode. Where this machine has an NVIDIA card, "
    "install its driver or restart the computer.",
    12: NO_GPU,  # no such library: the usual machine without a card
    15: "The driver lost the GPU: CPU mode. Restart the computer.",
    16: "The GPU needs a reset: CPU mode. Restart the computer.",
    18: "The NVIDIA driver was updated while it was running: CPU mode. Restart the computer.",
}
LOST_NUMBERS = (15, 16)
# Errors that say "not on this card" and nothing about the connection: invalid argument, not
# supported, no permission, not found, function not found, no data, version mismatch, deprecated,
# not ready.
HARMLESS_NUMBERS = (2, 3, 4, 6, 13, 21, 25, 26, 27)
LONGEST_RETRY = 30.0  # seconds between two attempts to reach a driver that stays away


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment. None: the driver does not tell. `error` is a sentence, or empty.

    Indices are NVML's (by PCI bus); `uuid` names the card for good. `used_bytes` leaves out what
    the driver reserves for itself, as nvidia-smi does, so used + free is less than total.
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


class Nvml:
    """The driver's management library: opened when first needed, reopened after it failed.

    `module` stands in for pynvml in tests. After a failure the next reading reopens it; from the
    second failure in a row on the attempts are spaced (2, 4 ... 30 s), so that a machine without
    a card, or with one lost for good, costs nothing.
    """

    def __init__(self, module: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.module, self.clock = module, clock
        self.message = NO_GPU
        self.devices: list[
            tuple[Any, Gpu]
        ] = []  # a handle, None where lost, and what never changes
        self._open = False
        self._failed = False  # somewhere in this reading
        self._lost = False  # somewhere in the reading of this GPU
        self._failures = 0  # readings in a row
        self._next_try = 0.0

    def read(self) -> tuple[Gpu, ...]:
        """All GPUs now, empty where there is none; `message` then says why."""
        self._failed = False
        if (self._failures or not self._open) and self.clock() >= self._next_try:
            self._reopen()
        gpus = tuple(self._read_gpu(handle, gpu) for handle, gpu in self.devices)
        self._space_attempts(self._failed or not self._open or any(gpu.error for gpu in gpus))
        return gpus

    def ask(self, name: str, *args: Any) -> Any:
        """The one funnel: the answer of NVML's function `name`, None where there is none."""
        answer, _ = self._ask(name, *args)
        return answer

    def _ask(self, name: str, *args: Any) -> tuple[Any, int]:
        """The answer and NVML's error number, 0 for none."""
        function = getattr(self.module, name, None)
        if function is None:  # a binding older or newer than ours
            return None, 13
        try:
            return function(*args), 0
        except self.module.NVMLError as error:
            number = int(getattr(error, "value", 999))
            self._failed = self._failed or number not in HARMLESS_NUMBERS
            self._lost = self._lost or number in LOST_NUMBERS
            return None, number

    def _reopen(self) -> None:
        if self._open:
            self.ask("nvmlShutdown")
        self._open, self.devices = False, []
        self.message = self._connect()
        self._open = not self.message

    def _connect(self) -> str:
        """Open the library and find the cards. Returns why that failed, or nothing."""
        try:
            self.module = self.module or importlib.import_module("pynvml")
        except ImportError:
            return NO_MODULE
        _, number = self._ask("nvmlInit")
        if number:
            return _no_driver(number)
        count, number = self._ask("nvmlDeviceGetCount")
        self.devices = [self._find(index) for index in range(count or 0)]
        if self.devices:
            return ""
        self.ask("nvmlShutdown")
        return _no_driver(number) if number else NO_GPU

    def _find(self, index: int) -> tuple[Any, Gpu]:
        handle, number = self._ask("nvmlDeviceGetHandleByIndex", index)
        if handle is None:
            return None, Gpu(index, error=_trouble(number))
        name, uuid = self.ask("nvmlDeviceGetName", handle), self.ask("nvmlDeviceGetUUID", handle)
        return handle, Gpu(index, _text(name), _text(uuid))

    def _read_gpu(self, handle: Any, gpu: Gpu) -> Gpu:
        if handle is None:
            return gpu
        self._lost = False
        memory, number = self._ask("nvmlDeviceGetMemoryInfo", handle, self._memory_version())
        if number in HARMLESS_NUMBERS:  # a driver before 510: what it reserves is in used
            memory = self.ask("nvmlDeviceGetMemoryInfo", handle)
        busy = self.ask("nvmlDeviceGetUtilizationRates", handle)
        values = replace(
            gpu,
            busy_percent=_known(getattr(busy, "gpu", None)),
            used_bytes=_known(getattr(memory, "used", None)),
            free_bytes=_known(getattr(memory, "free", None)),
            total_bytes=_known(getattr(memory, "total", None)) or None,
            temperature_c=_known(self.ask("nvmlDeviceGetTemperature", handle, 0)),  # 0: the GPU's
            power_w=_watts(self.ask("nvmlDeviceGetPowerUsage", handle)),
            power_limit_w=_watts(self.ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
            sm_clock_mhz=_known(self.ask("nvmlDeviceGetClockInfo", handle, 1)),  # 1: SM
            memory_clock_mhz=_known(self.ask("nvmlDeviceGetClockInfo", handle, 2)),  # 2: memory
            fan_percent=_known(self.ask("nvmlDeviceGetFanSpeed", handle)),
        )
        return replace(gpu, error=LOST) if self._lost else values

    def _memory_version(self) -> Any:
        return getattr(self.module, "nvmlMemory_v2", None)

    def _space_attempts(self, failed: bool) -> None:
        self._failures = self._failures + 1 if failed else 0
        if failed and self.clock() >= self._next_try:
            wait = min(LONGEST_RETRY, 2.0 ** (self._failures - 1)) if self._failures > 1 else 0.0
            self._next_try = self.clock() + wait


def _known(value: Any) -> int | None:
    """None for what NVML fills in where it does not know: the largest number of 32 or 64 bits."""
    if value is None or not 0 <= int(value) < 2**63 or int(value) == 2**32 - 1:
        return None
    return int(value)


def _watts(milliwatts: Any) -> float | None:
    known = _known(milliwatts)
    return None if known is None else round(known / 1000, 1)


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _no_driver(number: int) -> str:
    return TROUBLES.get(
        number,
        f"The NVIDIA driver does not answer (error {number}): CPU mode. "
        "It is asked again by itself; if this stays, restart the computer.",
    )


def _trouble(number: int) -> str:
    return (
        LOST
        if number in LOST_NUMBERS
        else f"This GPU does not answer (error {number}). It is asked again by itself."
    )


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

    def read(self) -> Reading:
        """Everything now, in a few milliseconds. Never raises for what a driver does."""
        with self._lock:
            gpus = self.nvml.read()
            mode = "cuda" if gpus else "cpu"
            return Reading(self.clock(), mode, self.nvml.message, gpus, self._read_host())

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
    time.sleep(0.2)
    print(json.dumps(machine.read().to_json(), indent=2))


if __name__ == "__main__":
    main()
