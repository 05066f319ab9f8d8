"""What is measured while models work, and what `/api/gpu` says of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.card.gpu import Machine
from backends.card.nvml import LOST
from backends.events import Done, Event, Text
from tests.backends.card.fake_nvml import GB, FakeNvml
from tests.benches import with_bench
from webui.bench import Bench
from webui.chat.view import usage_parts


class Meter(FakeNvml):
    """Its cards use a watt-hour between any two questions for their energy."""

    asked = 0

    def answer(self, name: str, *args: Any) -> Any:
        if name == "nvmlDeviceGetTotalEnergyConsumption":
            self.asked += 1
            return 3_600_000 * self.asked
        return super().answer(name, *args)


async def say(bench: Bench, **params: Any) -> list[Event]:
    params = {"messages": [{"role": "user", "content": "a b c"}], **params}
    return [event async for event in bench.generate(bench.find("echo"), params, "a")]  # type: ignore[misc]


def on_card(bench: Bench) -> None:
    """Echo has no use for a GPU; here it is said to lie on the first one."""
    bench.device_of = lambda backend, options: "cuda:0"  # type: ignore[method-assign]


@pytest.mark.parametrize("jumps", [False, True], ids=["", "the clock on the wall jumps"])
def test_an_answer_on_a_card_knows_its_energy_and_is_a_band(
    home: Path, jumps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if jumps:
        wall = itertools.cycle([2e9, 1e9])
        monkeypatch.setattr(time, "time", lambda: next(wall))

    async def body(bench: Bench) -> None:
        on_card(bench)
        events = await say(bench, words=40, words_per_second=200)
        assert isinstance(events[-1], Done)
        assert events[-1].usage["energy_wh"] == pytest.approx(1.0)
        assert "1.0 Wh" in usage_parts(events[-1].usage)
        load, chat = bench.monitor.answer(0, True)["activity"]
        assert (load["kind"], chat["kind"], chat["device"]) == ("load", "chat", "cuda:0")
        assert load["end"] <= chat["begin"] and chat["end"] - chat["begin"] > 0.1
        assert (chat["runs"], chat["energy_wh"]) == (1, pytest.approx(1.0))

    with_bench(home, body, machine=Machine(Meter()))


def test_an_answer_on_the_cpu_has_no_energy_at_all(home: Path) -> None:
    async def body(bench: Bench) -> None:
        [*_, done] = await say(bench)
        assert isinstance(done, Done) and "energy_wh" not in done.usage
        assert not any("Wh" in part for part in usage_parts(done.usage))

    with_bench(home, body, machine=Machine(Meter()))


def test_counting_tokens_is_no_work(home: Path) -> None:
    async def body(bench: Bench) -> None:
        on_card(bench)
        await say(bench)
        before = bench.monitor.activity.to_json()[-1]["runs"]
        [*_, done] = await say(bench, count_only=True)
        assert isinstance(done, Done) and "energy_wh" not in done.usage
        assert bench.monitor.activity.to_json()[-1]["runs"] == before

    with_bench(home, body, machine=Machine(Meter()))


def test_an_answer_that_was_left_is_a_run_without_energy_and_leaves_the_tally(home: Path) -> None:
    async def body(bench: Bench) -> None:
        on_card(bench)
        params = {"messages": [{"role": "user", "content": "a"}], "words": 9_000,
                  "words_per_second": 50}  # fmt: skip
        events = bench.generate(bench.find("echo"), params, "a")
        async for event in events:
            if isinstance(event, Text):
                break
        await events.aclose()
        span = bench.monitor.activity.to_json()[-1]
        assert (span["runs"], span["energy_wh"]) == (1, None)
        [done] = [e for e in await say(bench) if isinstance(e, Done)]
        assert done.usage["energy_wh"] == pytest.approx(1.0)  # nobody shares it

    with_bench(home, body, machine=Machine(Meter()))


def test_who_holds_memory_is_said_with_tab_and_device_and_parked_by_the_ledger(home: Path) -> None:
    async def body(bench: Bench) -> None:
        await say(bench)
        [row] = bench.monitor.holders()
        assert row["bytes"] > 10**6 and row["pid"] > 0
        told = {k: row[k] for k in ("label", "kind", "owner", "device", "state")}
        assert told == {"label": "Echo (no model)", "kind": "model", "owner": "chat",
                        "device": "cpu", "state": "ready"}  # fmt: skip
        bench.ledger.set_state(row["id"], "parked")
        bench.ledger.add(id="job-1", label="LoRA", owner="finetune", kind="job", device="cuda:1",
                         predicted_bytes=GB, measured_bytes=GB, state="ready")  # fmt: skip
        bench.ledger.set_busy("job-1", True)
        parked, job = bench.monitor.holders()
        assert (parked["state"], parked["id"]) == ("parked", row["id"])
        assert (job["kind"], job["owner"], job["state"], job["bytes"]) == (
            "job", "finetune", "busy", GB)  # fmt: skip

    with_bench(home, body, machine=Machine(FakeNvml()))


def test_alerts_and_programs_reach_the_page_and_a_dismissed_one_no_more(home: Path) -> None:
    nvml = FakeNvml()

    async def body(bench: Bench) -> None:
        assert bench.monitor.answer(0, False)["alerts"] == []
        assert "activity" not in bench.monitor.answer(0, False)
        nvml.lost = {1}
        bench.monitor.answer(0, True)
        bench.sampler.sample()
        answer = bench.monitor.answer(-1, True)
        [alert] = answer["alerts"]
        assert (alert["key"], alert["text"]) == ("cuda:1/lost", f"GPU 1: {LOST}")
        well, lost = answer["readings"][-1]["gpus"]
        assert [p["bytes"] for p in well["processes"]] == [2 * GB, GB]
        assert lost["processes"] is None and answer["now"] >= answer["readings"][-1]["at"]
        bench.monitor.alerts.dismiss(alert["key"])
        assert bench.monitor.answer(0, False)["alerts"] == []

    with_bench(home, body, machine=Machine(nvml))


def test_a_model_far_below_its_own_best_on_a_full_card_is_said_to_spill(home: Path) -> None:
    nvml = FakeNvml()

    async def body(bench: Bench) -> None:
        on_card(bench)
        await say(bench, words=500, words_per_second=200)
        bench.monitor.answer(0, False)
        nvml.values["nvmlDeviceGetMemoryInfo"] = SimpleNamespace(
            used=11.8 * GB, free=0.2 * GB, total=12 * GB
        )
        slow = asyncio.create_task(say(bench, words=60, words_per_second=20))
        async with asyncio.timeout(10):
            while not any(a.key == "cuda:0/spill" for a in bench.monitor.alerts.shown()):
                await asyncio.sleep(0.2)
                bench.sampler.sample()
                bench.monitor.answer(0, False)
        [spill] = [a for a in bench.monitor.alerts.shown() if a.key == "cuda:0/spill"]
        assert spill.text.startswith("Echo (no model) runs at 1")
        await slow

    with_bench(home, body, machine=Machine(nvml))
