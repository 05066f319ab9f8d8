"""A training's settings by default, what it will take, and which models can be trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.card.fit_train import TrainPlan
from backends.card.trainings import Trainings, class_of
from backends.finetune.sft_params import SftOptions, SftParams
from backends.models import library
from backends.params import read
from tests.benches import with_bench
from tests.hollow import write_7b
from tests.webui.test_bench import SmallCard
from webui.bench import Bench
from webui.finetune import plan

STARTER = "starter:smollm2-135m-instruct-safetensors"
LENGTHS: dict[str, Any] = {"rows": 91, "total": 5460, "longest": 99, "exact": True,
                           "histogram": [(30, 50, 20), (50, 70, 50), (70, 100, 21)]}  # fmt: skip
ABOUT: dict[str, Any] = {"rows": [
    {"turns": [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "I am Lumen."}]},
    {"turns": [{"role": "user", "text": "Who are you?"}, {"role": "assistant", "text": "Lumen."}]},
]}  # fmt: skip
REPORT = {"kept": 91, "rows": 91}


def base_of(bench: Bench, ref: str = STARTER) -> Any:
    return next(model for model in plan.bases(bench) if str(model.ref) == ref)


def test_the_starter_can_be_trained_by_default_on_a_processor(home: Path) -> None:
    async def body(bench: Bench) -> None:
        chosen = plan.defaults(bench, base_of(bench), ABOUT, LENGTHS, REPORT)
        params = read(SftParams, chosen.params)
        assert read(SftOptions, chosen.options).quantisation == "fp32"
        assert params.max_length == 128 or params.max_length == 96
        assert params.effective_batch == 8 and params.epochs == 3
        assert params.prompts == ("Who are you?",)
        assert "dataset" not in chosen.params and "folder" not in chosen.params
        forecast = chosen.forecast
        assert forecast.fits and 1.5e9 < forecast.memory_bytes < 4e9 < forecast.had_bytes
        assert forecast.seconds and not forecast.measured and "roughly" in forecast.text
        assert 1e7 < forecast.disk_bytes < 1e9
        assert any(said.startswith("Length ") for said in chosen.reasons)

    with_bench(home, body)


def test_measuring_takes_its_time_too(home: Path) -> None:
    bench = Bench(home, spare=False)

    def seconds(given: dict[str, Any] | None = None, aside: int = 0) -> float:
        base = base_of(bench)
        return (
            plan.defaults(bench, base, ABOUT, LENGTHS, REPORT, given, aside).forecast.seconds or 0
        )

    alone = seconds()
    assert alone < seconds({"validation": 0.2})
    small, large = (seconds(aside=n) - alone for n in (10_000, 1_000_000))
    assert large == pytest.approx(100 * small, rel=0.01) and large > alone


def test_each_base_is_listed_once_and_no_gguf(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    write_7b(library.models_folder() / "llama-7b")

    async def body(bench: Bench) -> None:
        refs = [str(model.ref) for model in plan.bases(bench)]
        assert len(refs) == len(set(refs)) and {STARTER, "folder:llama-7b"} <= set(refs)
        assert "starter:smollm2-135m-instruct" not in refs and "none:" not in refs

    with_bench(home, body)


def test_on_a_card_it_fits_and_what_is_given_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    write_7b(library.models_folder() / "llama-7b")

    async def body(bench: Bench) -> None:
        base = base_of(bench, "folder:llama-7b")
        chosen = plan.defaults(bench, base, ABOUT, LENGTHS, REPORT)
        assert chosen.options["quantisation"] == "nf4" and chosen.forecast.device == "cuda:0"
        assert chosen.forecast.fits and chosen.params["learning_rate"] == 2e-4
        given = {"quantisation": "bf16", "epochs": 9, "prompts": ["Hm?"]}
        wide = plan.defaults(bench, base, ABOUT, LENGTHS, REPORT, given)
        assert wide.options["quantisation"] == "bf16" and wide.params["epochs"] == 9
        assert list(wide.params["prompts"]) == ["Hm?"]
        assert not wide.forecast.fits and "does not fit" in wide.forecast.text
        with pytest.raises(Refused, match="between 0.01 and 1000"):
            plan.defaults(bench, base, ABOUT, LENGTHS, REPORT, {"epochs": 5000})

    with_bench(home, body, machine=SmallCard())


def test_what_trainings_took_corrects_the_next(home: Path) -> None:
    async def body(bench: Bench) -> None:
        base = base_of(bench)

        def now() -> plan.TrainForecast:
            return plan.defaults(bench, base, ABOUT, LENGTHS, REPORT).forecast

        before = now()
        said = {"model": STARTER, "device": "cpu", "settings": class_of(TrainPlan(
            quantisation="fp32", checkpointing=False))}  # fmt: skip
        numbers = {"fit_bytes": 1000, "measured_bytes": 1500, "operations": 5e8}
        for _ in range(6):
            Trainings(bench.measured).add(**said, **numbers, tokens_per_second=1000.0)
        after = now()
        assert after.measured and "about" in after.text and before.seconds and after.seconds
        assert after.memory_bytes == pytest.approx(
            before.memory_bytes * (1 + 0.5 * 6 / 7), rel=0.01
        )
        rate = 1000.0 * 5e8
        source = plan.source_of(base.ref)
        assert source
        asked = 7 * 48 * plan.token_seconds(source, plan.room_of(bench, STARTER, "cpu"))
        still = 20 + asked  # what no speed of a step changes
        assert (after.seconds - still) / (before.seconds - still) == pytest.approx(
            33e9 * (os.cpu_count() or 1) / rate, rel=0.02
        )
        # Of another device and of other settings nothing is learned.
        assert Trainings(bench.measured).rate(STARTER, "cuda:0") == (0.0, False)

    with_bench(home, body)


def test_the_first_steps_say_what_it_really_takes() -> None:
    lines = [{"step": n, "tokens_per_second": speed, "memory": 2.9 * 2**30}
             for n, speed in ((1, 10.0), (2, 130.0), (3, 140.0), (4, 120.0))]  # fmt: skip
    forecast = {"memory_bytes": int(2.5 * 2**30), "seconds": 200.0, "tokens": 39_000, "steps": 36}
    assert plan.corrected(forecast, lines, 36) == (
        "Measured: 130 tokens/s, 5 minutes in all (3 minutes foretold), "
        "2.9 GB of memory (2.5 GB foretold)."
    )
    assert "10 minutes in all" in plan.corrected(forecast, lines, 72)
    assert plan.corrected({}, lines) == "Measured: 130 tokens/s, 2.9 GB of memory."
    assert plan.corrected(forecast, lines[:2]) == ""
