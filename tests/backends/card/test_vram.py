"""What the driver says of memory: by process where it tells, of the device else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from backends.card import pretended, vram
from backends.card.gpu import Machine
from backends.card.ledger import GB
from backends.card.nvml import Nvml
from backends.card.reading import Gpu, GpuProcess, Host, Reading
from backends.card.vram import Used
from tests.backends.card.test_gpu import FakeNvml

CARD = "cuda:0"


def reading(used: int | None, *processes: tuple[int, int | None], told: bool = True) -> Reading:
    listed = tuple(GpuProcess(pid, "x", size) for pid, size in processes) if told else None
    gpu = Gpu(0, used_bytes=used, processes=listed)
    return Reading(0.0, "cuda", "", (gpu,), Host(None, None, None, None))


def test_a_process_counts_where_the_driver_tells_and_the_device_where_not() -> None:
    assert vram.used(reading(9, (7, 4)), CARD, 7) == Used(4, True)
    assert vram.used(reading(9, (7, None)), CARD, 7) == Used(9, False)  # Windows
    assert vram.used(reading(9, (8, 4)), CARD, 7) == Used(9, False)  # other numbers: a container
    assert vram.used(reading(9, told=False), CARD, 7) == Used(9, False)
    assert vram.used(reading(None), CARD, 7) is None
    assert vram.used(reading(9), "cuda:1", 7) is None is vram.used(reading(9), "cpu", 7)


def back(before: Used | None, expected: int, later: Iterable[Reading]) -> tuple[int, bool]:
    left = list(later)

    async def read() -> Reading:
        return left.pop(0) if len(left) > 1 else left[0]

    return asyncio.run(vram.came_back(read, CARD, 7, before, expected, seconds=0.35))


def test_memory_that_comes_late_is_waited_for_and_what_stays_away_is_said() -> None:
    slow = [reading(10 * GB), reading(9 * GB), reading(3 * GB)]
    assert back(Used(10 * GB, False), 7 * GB, slow) == (7 * GB, True)
    assert back(Used(10 * GB, False), 8 * GB, slow) == (7 * GB, False)
    nearly = [reading(3 * GB + vram.SLACK_BYTES)]
    assert back(Used(10 * GB, False), 7 * GB, nearly)[1]


def test_others_that_take_memory_meanwhile_do_not_matter_where_processes_are_told() -> None:
    assert back(Used(4 * GB, True), 4 * GB, [reading(11 * GB, (8, 9 * GB))]) == (4 * GB, True)
    assert back(Used(4 * GB, True), 4 * GB, [reading(0, (7, 3 * GB))]) == (1 * GB, False)
    assert back(Used(4 * GB, True), 4 * GB, [reading(0, told=False)]) == (4 * GB, True)
    assert back(None, 4 * GB, [reading(None)]) == (4 * GB, True)


def test_more_stays_free_where_a_screen_hangs_on_the_card() -> None:
    nvml = FakeNvml(1)
    for mode, active, display in ((0, 0, False), (1, 0, True), (0, 1, True)):
        nvml.values |= {"nvmlDeviceGetDisplayMode": mode, "nvmlDeviceGetDisplayActive": active}
        found = Machine(nvml).read()
        assert found.gpus[0].display is display
        more = vram.BESIDE_A_SCREEN if display else 0
        assert vram.reserve_bytes(found, CARD) == GB // 2 + more
        assert vram.reserve_bytes(found, CARD, 3 * GB) == 3 * GB
        assert vram.reserve_bytes(found, CARD, 0) == 0, "the owner wants all of it used"
        assert vram.reserve_bytes(found, "cpu", 3 * GB) == GB
    nvml.faults |= {"nvmlDeviceGetDisplayMode": 3, "nvmlDeviceGetDisplayActive": 3}
    assert Nvml(nvml).read()[0].display is None


def test_a_card_is_pretended_only_where_a_test_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(pretended.VARIABLE, raising=False)
    assert type(pretended.machine(lambda: 0)) is Machine
    monkeypatch.setenv(pretended.VARIABLE, "2000")
    found = pretended.machine(lambda: 2**30).read()
    assert found.has_gpu and found.free_bytes(CARD) == 2000 * 2**20 - 2**30
