"""What a job's process takes from the card, with the driver's stand-in."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from backends.card.gpu import Machine
from backends.events import Failed, Metric
from backends.runtime import job_writer
from backends.runtime.disk import read_json, read_lines
from backends.runtime.job_writer import JobWriter
from backends.runtime.meter import Meter
from tests.backends.card.fake_nvml import FakeNvml

COUNTER = "nvmlDeviceGetTotalEnergyConsumption"  # millijoules


def test_the_drivers_joules_are_watt_hours() -> None:
    card = FakeNvml(1)
    card.values[COUNTER] = 5_000_000
    meter = Meter("cuda:0", Machine(card))
    card.values[COUNTER] = 12_200_000
    assert meter.so_far() == pytest.approx(2.0)
    card.values[COUNTER] = 15_800_000
    assert meter.close() == pytest.approx(3.0)


def test_without_a_counter_the_watts_are_asked_for_between_the_steps() -> None:
    card = FakeNvml(1)
    card.faults[COUNTER] = 3
    meter = Meter("cuda:0", Machine(card))
    time.sleep(0.8)
    asked = card.calls.count("nvmlDeviceGetPowerUsage")
    took = meter.close()
    assert asked >= 4 and took == pytest.approx(123.5 * 0.8 / 3600, rel=0.3)


@pytest.mark.parametrize("cards", [0, 1])
def test_without_a_card_nothing_is_said(cards: int) -> None:
    card = FakeNvml(cards)
    assert Meter("cpu", Machine(card)).close() is None and card.calls == []
    if not cards:
        assert Meter("cuda:0", Machine(card)).close() is None


def test_a_job_says_it_by_step_and_for_all_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = FakeNvml(2)
    card.values[COUNTER] = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(job_writer, "Meter", lambda device: Meter(device, Machine(card)))
    for run in (1, 2):
        out = JobWriter(tmp_path)
        out.begin("loading")
        out.measure("cuda")
        for step in (2 * run - 1, 2 * run):
            card.values[COUNTER] += 3_600_000
            out.take(Metric(step, "loss", 1.0))
        out.finish_line()
        out.end("stopped", Failed("x"), 1.0)
    curve = read_lines(tmp_path / "metrics.jsonl")[0]
    assert [line["energy_wh"] for line in curve] == pytest.approx([2, 2, 4, 4], abs=1.01)
    end = json.loads((tmp_path / "exit.json").read_text())
    assert end["usage"]["energy_wh"] == pytest.approx(4.0)
    assert read_json(tmp_path / "state.json")["worked"] > 0
    JobWriter(tmp_path).end("stopped", Failed("x"), 1.0)
    assert read_json(tmp_path / "state.json")["energy_wh"] == pytest.approx(4.0), "none was lost"
