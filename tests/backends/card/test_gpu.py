"""The reading of the machine, against a stand-in for the driver's library."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from backends.base import Refused
from backends.card import gpu as gpu_module
from backends.card.gpu import LOST, NO_GPU, NO_MODULE, Machine, Power
from tests.backends.card.fake_nvml import GB, FakeNvml

ROOT = Path(__file__).parents[3]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def nvml():
    return FakeNvml()


def test_a_reading_holds_what_the_driver_tells_in_the_units_of_its_names(nvml):
    reading = Machine(nvml).read()
    assert (reading.mode, reading.message, len(reading.gpus)) == ("cuda", "", 2)
    card = reading.gpus[1].__class__(
        index=1, name="NVIDIA GeForce RTX 4070 Ti", uuid="GPU-1", busy_percent=42,
        used_bytes=5 * GB, free_bytes=6 * GB, total_bytes=12 * GB, temperature_c=61,
        power_w=123.5, power_limit_w=285.0, sm_clock_mhz=2610, memory_clock_mhz=2610,
        fan_percent=30, slowdown_c=84, pcie_generation=1, pcie_generation_max=4, pcie_width=8,
        pcie_width_max=16, throttled=("power limit", "heat"), energy_j=7200.0,
    )  # fmt: skip
    assert reading.gpus[1] == card
    assert json.loads(json.dumps(reading.to_json()))["gpus"][1]["power_w"] == 123.5


def test_a_value_that_a_card_does_not_have_is_unknown_and_not_zero(nvml):
    nvml.faults = {"nvmlDeviceGetFanSpeed": 3, "nvmlDeviceGetUtilizationRates": 3}
    card = Machine(nvml).read().gpus[0]
    assert (card.fan_percent, card.busy_percent, card.temperature_c) == (None, None, 61)
    assert card.error == ""


def test_the_largest_number_means_unknown(nvml):
    nvml.values["nvmlDeviceGetMemoryInfo"] = SimpleNamespace(
        used=2**64 - 1, free=2**64 - 1, total=0
    )
    nvml.values["nvmlDeviceGetPowerUsage"] = 2**32 - 1
    card = Machine(nvml).read().gpus[0]
    assert (card.used_bytes, card.free_bytes, card.total_bytes, card.power_w) == (None,) * 4


def test_no_value_of_a_card_that_tells_none_is_zero(nvml):
    """As under WSL: memory and nothing else. Also each function by itself may be missing."""
    asked = [n for n in dir(pynvml) if n.startswith("nvmlDeviceGet")]
    kept = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo")
    nvml.faults = {name: 3 for name in asked if name not in kept}
    machine = Machine(nvml)
    machine.watch_processes()
    card = machine.read().gpus[0]
    told = {name: value for name, value in asdict(card).items() if value is not None}
    assert told == {
        "index": 0, "used_bytes": 5 * GB, "free_bytes": 6 * GB, "total_bytes": 12 * GB, "error": ""
    }  # fmt: skip


def test_nothing_that_slows_the_card_is_not_the_same_as_not_told(nvml):
    nvml.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x1  # idle
    assert Machine(nvml).read().gpus[0].throttled == ()
    nvml.faults = {f"nvmlDeviceGetCurrentClocks{word}Reasons": 13 for word in ("Event", "Throttle")}
    assert Machine(nvml).read().gpus[0].throttled is None


def test_an_older_driver_is_asked_for_the_reasons_in_the_older_way(nvml):
    nvml.faults["nvmlDeviceGetCurrentClocksEventReasons"] = 13
    nvml.values["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x80
    assert Machine(nvml).read().gpus[0].throttled == ("power supply",)


def test_processes_are_asked_for_only_while_somebody_looks(nvml):
    machine = Machine(nvml, clock=(clock := Clock()))
    assert machine.read().gpus[0].processes is None
    machine.watch_processes()
    mine, gone = machine.read().gpus[0].processes
    assert (mine.pid, mine.bytes) == (os.getpid(), 2 * GB)
    assert "python" in mine.name.lower() or "pytest" in mine.name.lower()
    assert (gone.name, gone.bytes) == ("", GB)
    clock.now += 6
    nvml.calls.clear()
    assert machine.read().gpus[0].processes is None
    assert not any("Processes" in name for name in nvml.calls)


def test_memory_of_a_process_that_is_not_told_is_unknown(nvml):
    nvml.values["nvmlDeviceGetComputeRunningProcesses"] = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)  # Windows' WDDM
    ]
    nvml.values["nvmlDeviceGetGraphicsRunningProcesses"] = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=2**64 - 1)  # WSL
    ]
    machine = Machine(nvml)
    machine.watch_processes()
    [process] = machine.read().gpus[0].processes
    assert (process.pid, process.bytes) == (os.getpid(), None)


def test_the_power_of_one_card_is_had_without_a_whole_reading(nvml):
    machine = Machine(nvml, clock=(clock := Clock()))
    assert machine.power("cuda:1") == Power(clock.now)  # nothing is open yet
    machine.read()
    nvml.calls.clear()
    assert machine.power("cuda:1") == Power(clock.now, 7200.0, 123.5)
    assert len(nvml.calls) == 2
    assert machine.power("cpu") == machine.power("cuda:7") == Power(clock.now)
    nvml.lost = {1}
    assert machine.power("cuda:1") == Power(clock.now)


def test_no_library_means_cpu_mode_with_the_host_still_read(nvml):
    nvml.faults["nvmlInit"] = 12
    reading = Machine(nvml).read()
    assert (reading.mode, reading.message, reading.gpus) == ("cpu", NO_GPU, ())
    assert reading.host.ram_total_bytes > reading.host.ram_used_bytes > 0
    assert reading.host.disk_free_bytes > 0


def test_a_library_without_a_card_means_cpu_mode():
    assert Machine(FakeNvml(cards=0)).read().message == NO_GPU


@pytest.mark.parametrize(
    ("number", "word"),
    [(4, "may not talk"), (9, "No NVIDIA driver"), (15, "lost"), (18, "updated"), (999, "999")],
)
def test_each_trouble_with_the_driver_has_two_sentences(nvml, number, word):
    nvml.faults["nvmlInit"] = number
    message = Machine(nvml).read().message
    assert word in message
    assert message.count(". ") >= 1


def test_a_missing_module_is_survived_and_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading = Machine().read()
    assert (reading.mode, reading.message) == ("cpu", NO_MODULE)


def test_a_driver_that_fails_once_is_back_at_the_next_reading(nvml):
    nvml.once["nvmlInit"] = 999
    clock = Clock()
    machine = Machine(nvml, clock=clock)
    assert machine.read().mode == "cpu"
    clock.now += 1
    assert machine.read().mode == "cuda"


def test_one_failed_value_is_unknown_once_and_the_library_is_reopened(nvml):
    machine = Machine(nvml, clock=(clock := Clock()))
    machine.read()
    nvml.once["nvmlDeviceGetTemperature"] = 999
    card = machine.read().gpus[0]
    assert (card.temperature_c, card.busy_percent) == (None, 42)
    clock.now += 1
    nvml.calls.clear()
    assert machine.read().gpus[0].temperature_c == 61
    assert nvml.calls[:2] == ["nvmlShutdown", "nvmlInit"]
    nvml.calls.clear()
    clock.now += 60
    machine.read()
    assert "nvmlInit" not in nvml.calls


def test_a_driver_that_is_updated_while_it_runs_is_said_and_comes_back_after_the_restart(nvml):
    machine = Machine(nvml, clock=(clock := Clock()))
    machine.read()
    nvml.faults = {name: 18 for name in dir(pynvml) if name.startswith("nvml")}
    assert [card.busy_percent for card in machine.read().gpus] == [None, None]
    clock.now += 1
    reading = machine.read()
    assert (reading.mode, reading.gpus) == ("cpu", ())
    assert "was updated while it was running" in reading.message
    assert reading.host.ram_total_bytes > 0
    nvml.faults = {}
    clock.now += 60
    assert machine.read().gpus[1].busy_percent == 42


def test_a_lost_card_leaves_the_other_one(nvml):
    machine = Machine(nvml, clock=(clock := Clock()))
    machine.read()
    nvml.lost = {0}
    for _ in range(3):  # noticed while reading, then already while reopening
        lost, well = machine.read().gpus
        assert (lost.error, lost.used_bytes, lost.index) == (LOST, None, 0)
        assert (well.error, well.used_bytes, well.index) == ("", 5 * GB, 1)
        clock.now += 1
    nvml.lost = set()
    clock.now += 60
    assert machine.read().gpus[0].used_bytes == 5 * GB


def test_a_driver_that_stays_away_is_asked_less_and_less_often(nvml):
    nvml.faults["nvmlInit"] = 12
    machine = Machine(nvml, clock=(clock := Clock()))
    for _ in range(600):
        machine.read()
        clock.now += 1
    assert 15 <= nvml.calls.count("nvmlInit") <= 30
    nvml.faults.clear()
    clock.now += 31
    assert machine.read().mode == "cuda"


def test_an_older_driver_is_asked_for_memory_in_the_older_way(nvml):
    def old_driver(name, *args, answer=nvml.answer):
        if name == "nvmlDeviceGetMemoryInfo" and args[1:] == (nvml.nvmlMemory_v2,):
            raise nvml.NVMLError(13)
        return answer(name, *args)

    nvml.answer = old_driver
    card = Machine(nvml).read().gpus[0]
    assert (card.used_bytes, card.error) == (5 * GB, "")


def test_free_memory_is_told_for_each_device_and_refused_for_others(nvml):
    reading = Machine(nvml).read()
    assert reading.free_bytes("cuda:1") == 6 * GB
    assert reading.free_bytes("cpu") > 0
    with pytest.raises(Refused, match="cuda:7"):
        reading.free_bytes("cuda:7")


def test_a_machine_whose_only_card_is_lost_has_no_gpu():
    nvml = FakeNvml(cards=1)
    machine = Machine(nvml)
    assert machine.read().has_gpu
    nvml.lost = {0}
    assert not machine.read().has_gpu
    nvml.faults["nvmlInit"] = 12
    assert not Machine(nvml).read().has_gpu


def test_the_first_cpu_percent_is_unknown_and_later_ones_are_shares(nvml, monkeypatch):
    times = iter([(10.0, 80.0), (16.0, 84.0), (16.0, 84.0)])

    class Times(tuple):
        idle = property(lambda self: self[1])

    monkeypatch.setattr(gpu_module.psutil, "cpu_times", lambda: Times(next(times)))
    machine = Machine(nvml)
    assert [machine.read().host.cpu_percent for _ in range(3)] == [None, 60.0, None]


def test_a_missing_folder_makes_only_the_disk_unknown(nvml, tmp_path):
    reading = Machine(nvml, disk=tmp_path / "gone").read()
    assert (reading.host.disk_free_bytes, reading.mode) == (None, "cuda")


def test_the_command_prints_one_reading_as_json():
    done = subprocess.run(
        [sys.executable, "-m", "backends.card.gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    reading = json.loads(done.stdout)
    assert reading["mode"] == ("cuda" if reading["gpus"] else "cpu")
    assert reading["host"]["cpu_percent"] is not None
