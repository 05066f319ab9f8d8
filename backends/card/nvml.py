"""The driver's management library, NVML, through nvidia-ml-py's module `pynvml`.

One connection, and one funnel for its errors. Never a CUDA context.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil

from backends.card.reading import Gpu, GpuProcess

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
# What holds the clocks down, by bit of nvmlClocksEventReasons. Left out: 0x1, the card is idle.
REASONS = {
    0x2: "clocks set by hand",
    0x4: "power limit",
    0x8: "hardware slow-down",
    0x10: "waiting for the other cards",
    0x20: "heat",
    0x40: "heat, by the hardware",
    0x80: "power supply",
    0x100: "clocks set for the display",
}
FAULTY = tuple(REASONS[bit] for bit in (0x8, 0x20, 0x40, 0x80))  # not as it should be
SLOWDOWN = 1  # NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
LONGEST_RETRY = 30.0  # seconds between two attempts to reach a driver that stays away


@dataclass(frozen=True, slots=True)
class Power:
    """What one GPU has used and uses: joules since the driver was loaded, watts now."""

    at: float
    energy_j: float | None = None
    power_w: float | None = None


class Nvml:
    """The driver's management library: opened when first needed, reopened after it failed.

    `module` stands in for pynvml in tests. After a failure the next reading reopens it; from the
    second failure in a row on the attempts are spaced (2, 4 ... 30 s), so that a machine without
    a card, or with one lost for good, costs nothing.
    """

    def __init__(self, module: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.module, self.clock = module, clock
        self.message = NO_GPU
        # A handle, None where lost, and what never changes.
        self.devices: list[tuple[Any, Gpu]] = []
        self._open = False
        self._failed = False  # somewhere in this reading
        self._lost = False  # somewhere in the reading of this GPU
        self._failures = 0  # readings in a row
        self._next_try = 0.0

    def read(self, processes: bool = False) -> tuple[Gpu, ...]:
        """All GPUs now, empty where there is none; `message` then says why."""
        self._failed = False
        if (self._failures or not self._open) and self.clock() >= self._next_try:
            self._reopen()
        gpus = tuple(self._read_gpu(handle, gpu, processes) for handle, gpu in self.devices)
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
        return handle, Gpu(
            index,
            _text(self.ask("nvmlDeviceGetName", handle)),
            _text(self.ask("nvmlDeviceGetUUID", handle)),
            slowdown_c=_known(self.ask("nvmlDeviceGetTemperatureThreshold", handle, SLOWDOWN)),
            pcie_generation_max=_known(self.ask("nvmlDeviceGetMaxPcieLinkGeneration", handle)),
            pcie_width_max=_known(self.ask("nvmlDeviceGetMaxPcieLinkWidth", handle)),
        )

    def power(self, index: int) -> Power:
        """Of the GPU with this index; unknown where the connection is down. Reopens nothing."""
        at = self.clock()
        if not 0 <= index < len(self.devices) or (handle := self.devices[index][0]) is None:
            return Power(at)
        return Power(at, self._energy(handle), _watts(self.ask("nvmlDeviceGetPowerUsage", handle)))

    def _read_gpu(self, handle: Any, gpu: Gpu, processes: bool) -> Gpu:
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
            pcie_generation=_known(self.ask("nvmlDeviceGetCurrPcieLinkGeneration", handle)),
            pcie_width=_known(self.ask("nvmlDeviceGetCurrPcieLinkWidth", handle)),
            throttled=self._throttled(handle),
            energy_j=self._energy(handle),
            display=self._display(handle),
            processes=self._processes(handle) if processes else None,
        )
        return Gpu(gpu.index, gpu.name, gpu.uuid, error=LOST) if self._lost else values

    def _throttled(self, handle: Any) -> tuple[str, ...] | None:
        bits = _known(self.ask("nvmlDeviceGetCurrentClocksEventReasons", handle))
        if bits is None:  # what a driver before 535 calls it
            bits = _known(self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle))
        if bits is None:
            return None
        return tuple(words for bit, words in REASONS.items() if bits & bit)

    def _display(self, handle: Any) -> bool | None:
        """Plugged in, or drawn on: under Windows a screen on another card may still draw here."""
        kinds = ("nvmlDeviceGetDisplayMode", "nvmlDeviceGetDisplayActive")
        answers = [_known(self.ask(kind, handle)) for kind in kinds]
        return None if answers == [None, None] else any(answers)

    def _energy(self, handle: Any) -> float | None:
        millijoules = _known(self.ask("nvmlDeviceGetTotalEnergyConsumption", handle))
        return None if millijoules is None else millijoules / 1000

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...] | None:
        """Programs that compute or draw there, by pid; None where the driver tells none of both."""
        kinds = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
        answers = [self.ask(kind, handle) for kind in kinds]
        if all(answer is None for answer in answers):
            return None
        found: dict[int, int | None] = {}
        for process in (process for answer in answers for process in answer or ()):
            # One that computes and draws is in both lists, with the same figure.
            size = _known(process.usedGpuMemory)
            found[process.pid] = found.get(process.pid) if size is None else size
        return tuple(GpuProcess(pid, _program(pid), size) for pid, size in sorted(found.items()))

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


def _program(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, OSError, ValueError):  # gone, of another user, or outside of a container
        return ""


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
