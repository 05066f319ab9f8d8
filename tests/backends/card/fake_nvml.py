"""A stand-in for the driver's library, and faults on demand."""

import os
from types import SimpleNamespace

GB = 2**30


class FakeNvml:
    """The part of pynvml that is asked, with two cards, and faults by function name.

    `faults["nvmlDeviceGetFanSpeed"] = 3` makes that function raise error 3, always;
    `once` does so one time; `lost` holds indices of cards that answer error 15 to everything.
    """

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__(value)
            self.value = value

    nvmlMemory_v2 = 33554472

    def __init__(self, cards=2):
        self.cards, self.faults, self.once, self.lost = cards, {}, {}, set()
        self.calls, self.values = [], {}

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*args):
            self.calls.append(name)
            number = self.once.pop(name, 0) or self.faults.get(name, 0)
            if args and isinstance(args[0], int) and args[0] in self.lost:
                number = 15
            if number:
                raise self.NVMLError(number)
            return self.answer(name, *args)

        return call

    def answer(self, name, *args):
        memory = SimpleNamespace(used=5 * GB, free=6 * GB, total=12 * GB)
        answers = {
            "nvmlDeviceGetCount": self.cards,
            "nvmlDeviceGetHandleByIndex": args[0] if args else None,
            "nvmlDeviceGetName": "NVIDIA GeForce RTX 4070 Ti",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetMemoryInfo": memory,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42, memory=7),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 123456,
            "nvmlDeviceGetEnforcedPowerLimit": 285000,
            "nvmlDeviceGetClockInfo": 2610,
            "nvmlDeviceGetFanSpeed": 30,
            "nvmlDeviceGetTemperatureThreshold": 84,
            "nvmlDeviceGetCurrPcieLinkGeneration": 1,
            "nvmlDeviceGetMaxPcieLinkGeneration": 4,
            "nvmlDeviceGetCurrPcieLinkWidth": 8,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x20,
            "nvmlDeviceGetTotalEnergyConsumption": 7_200_000,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=2 * GB)
            ],
            "nvmlDeviceGetGraphicsRunningProcesses": [
                SimpleNamespace(pid=2**22 + 1, usedGpuMemory=GB)  # above any pid: nobody's
            ],
        }
        return self.values.get(name, answers.get(name))
