"""What would help, what is best, and what measurements teach: with real shapes, no hardware."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from backends.card import fit
from backends.card.fit import Prediction, best_that_fits, learn, remedies
from backends.card.fit_load import predict
from backends.card.plan import LoadPlan
from backends.card.source import of_config
from backends.params import read, to_dict
from tests.backends.card.real_shapes import SHAPES

GB = 2**30
SMALL_CARD = int(11.3 * GB)


def loads(name: str) -> Any:
    """From load options as the page has them to what they take on a GPU."""
    from backends.chat.transformers_chat import TransformersChat

    card, model = TransformersChat.card, of_config(SHAPES[name])
    assert model

    def told(options: dict[str, Any]) -> Prediction | None:
        plan = card.plan(read(card.load_options, options), "cuda:0", 32768)
        return predict(model, plan) if plan else None

    return told


def options(**given: Any) -> dict[str, Any]:
    from backends.chat.transformers_chat import TransformersOptions

    return to_dict(TransformersOptions(**given))


def test_a_7b_model_in_16_bits_is_told_what_helps_on_12_gb() -> None:
    now = options(quantisation="bf16", context_length=8192)
    assert loads("Llama 2 7B")(now).total > SMALL_CARD
    found = remedies(loads("Llama 2 7B"), now, int(10 * GB), 8192)
    assert [r.text.partition(":")[0] for r in found] == ["4-bit"]
    assert found[0].options == now | {"quantisation": "nf4"}
    assert found[0].text == f"4-bit: {fit.gigabytes(found[0].prediction.total)}"


def test_two_changes_together_where_one_is_not_enough_and_layers_at_last() -> None:
    now = options(quantisation="bf16", context_length=16384)
    both = remedies(loads("Llama 2 7B"), now, 7 * GB, 16384)
    assert len(both) == 1 and both[0].text.startswith("4-bit, context ")
    assert both[0].options["context_length"] < 16384
    short = options(quantisation="bf16", context_length=2048)
    layers = remedies(loads("Llama 2 13B"), short, 7 * GB, 2048, free_ram=64 * GB)
    assert len(layers) == 1 and "layers on the GPU" in layers[0].text
    more = layers[0].options | {"gpu_layers": layers[0].options["gpu_layers"] + 1}
    assert loads("Llama 2 13B")(more).total > 7 * GB, "one layer more would not fit"
    assert remedies(loads("Llama 2 13B"), short, 7 * GB, 2048, free_ram=GB) == []


@pytest.mark.parametrize("name", SHAPES)
def test_every_remedy_fits_and_changes_only_what_was_there(name: str) -> None:
    draw = random.Random(name)
    for _ in range(20):
        free = draw.randrange(GB // 2, 24 * GB)
        context = draw.choice([2048, 4096, 8192, 32768])
        now = options(quantisation=draw.choice(["fp32", "bf16", "int8"]), context_length=context)
        found = remedies(loads(name), now, free, context, 64 * GB)
        best = best_that_fits(loads(name), now, free, context, 64 * GB)
        for remedy in [*found, *([best] if best else [])]:
            assert loads(name)(remedy.options).total <= free
            assert remedy.options.keys() == now.keys() and remedy.options != now or remedy is best
            assert remedy.options["context_length"] <= context
        assert best or not found, "what helps is also a best"


def test_best_keeps_bits_before_context_and_context_before_layers() -> None:
    told = loads("Llama 3 8B")
    now = options(context_length=8192)

    def best(free: float) -> dict[str, Any]:
        found = best_that_fits(told, now, int(free * GB), 8192)
        assert found
        return found.options

    assert best(24)["quantisation"] == "bf16" and best(24)["context_length"] == 8192
    assert best(11.3)["quantisation"] == "int8"
    assert best(7.8)["quantisation"] == "nf4"
    assert best_that_fits(told, now, GB, 8192) is None


def test_a_backend_without_quantisation_is_offered_a_shorter_context() -> None:
    said = {32768: 12, 16384: 8, 8192: 6, 4096: 5, 2048: 4}

    def told(given: dict[str, Any]) -> Prediction:
        return Prediction((("all", said[given["context_length"]] * GB),))

    found = remedies(told, {"context_length": 32768}, 6 * GB, 32768)
    assert [r.text for r in found] == [
        "context 8,192: 6.0 GB", "context 4,096: 5.0 GB", "context 2,048: 4.0 GB",
    ]  # fmt: skip


# Learning


def record(said: int, took: int, **more: Any) -> dict[str, Any]:
    base = {"backend": "transformers", "device": "cuda:0", "fit_bytes": said}
    return base | {"measured_bytes": took} | more


def test_it_learns_the_median_and_shows_its_own_error() -> None:
    rows = [record(10 * GB, int(10 * GB * f)) for f in (1.08, 1.10, 1.10, 1.12, 1.11, 1.9)]
    learned = learn(rows, "transformers", "cuda:0")
    assert learned.count == 6 and 1.08 < learned.ratio < 1.11, "one odd load spoils nothing"
    assert 0.01 <= learned.error < 0.03
    before = Prediction((("weights", 5 * GB), ("cache", GB)), held=5 * GB)
    after = learned.correct(before)
    assert after.held == pytest.approx(5 * GB * learned.ratio, abs=2)
    assert after.total - before.total == after.held - before.held
    assert after.error == learned.error


def test_one_measurement_moves_it_half_way_and_rubbish_not_at_all() -> None:
    one = learn([record(GB, int(1.2 * GB))], "transformers", "cuda:0")
    assert one.ratio == pytest.approx(1.1) and one.error == fit.USUAL_ERROR
    rubbish = [
        record(GB, 9 * GB), record(0, GB), record(GB, 0), {"measured_bytes": "x"}, {},
        record(GB, GB, device="cpu"), record(GB, GB, backend="llama_cpp"),
        {"backend": "transformers", "device": "cuda:0", "measured_bytes": GB},
    ]  # fmt: skip
    nothing = learn(rubbish, "transformers", "cuda:0")
    assert nothing.count == 0
    plan = LoadPlan("transformers", "nf4", "cuda:0")
    model = of_config(SHAPES["Mistral 7B"])
    assert model
    assert nothing.correct(predict(model, plan)) == predict(model, plan)
    assert replace(nothing, count=0) == nothing
