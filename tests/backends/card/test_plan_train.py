"""What is chosen for a training: it fits, loses few tokens, has steps enough, and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.card import plan_train
from backends.card.fit_train import TrainPlan
from backends.card.plan_train import Lengths, Room, Wanted, best_plan
from backends.card.source import Source, of_config
from tests.backends.card.real_shapes import SHAPES

GB = 2**30
CARD = Room("cuda:0", int(11.3 * GB), "NVIDIA GeForce RTX 4070 Ti")
CPU = Room("cpu", 16 * GB, cores=2)
# 91 short rows, as an identity set has; and 50,000 mixed ones, a few of which are long.
FEW = Lengths(91, 5460, 99, ((30, 50, 20), (50, 70, 50), (70, 100, 21)), True)
MANY = Lengths(
    50_000, 9_000_000, 1900,
    ((30, 100, 20_000), (100, 300, 25_000), (300, 800, 4500), (800, 1901, 500)), True,
)  # fmt: skip
SMOL: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


def source(name: str) -> Source:
    found = of_config(SMOL if name == "smol" else SHAPES[name])
    assert found
    return found


@pytest.mark.parametrize("name", ["Llama 3 8B", "Qwen3 4B", "Llama 2 13B", "Gemma 2B"])
@pytest.mark.parametrize("lengths", [FEW, MANY], ids=["few", "many"])
def test_it_fits_a_12_gb_card_cuts_little_and_has_steps_enough(name: str, lengths: Lengths) -> None:
    chosen = best_plan(source(name), lengths, CARD, Wanted())
    assert chosen.fits
    assert chosen.prediction.total * (1 + chosen.prediction.error) <= CARD.bytes
    again = plan_train.memory(source(name), chosen.plan, "cuda")
    assert again.total <= chosen.prediction.total
    assert lengths.cut(chosen.plan.length) <= 0.005
    assert chosen.steps >= 30
    assert 5 <= -(-chosen.steps // chosen.save_steps) <= 8
    assert chosen.seconds <= 2 * 3600 * 1.01


def test_a_little_room_costs_exactness_before_rows_and_rows_before_all() -> None:
    model = source("Qwen3 4B")
    wide = best_plan(model, FEW, Room("cuda:0", 40 * GB, "NVIDIA A100"), Wanted()).plan
    assert wide.quantisation == "bf16" and not wide.checkpointing and wide.micro_batch > 1
    small = best_plan(model, MANY, Room("cuda:0", 8 * GB, "NVIDIA GeForce RTX 4060"), Wanted())
    assert small.fits and small.plan.quantisation == "nf4"
    tiny = best_plan(model, MANY, Room("cuda:0", 4 * GB, "NVIDIA GeForce GTX 1650"), Wanted())
    assert tiny.fits and tiny.plan.length < 1536
    assert "would not fit" in tiny.reasons["max_length"] and "% of" in tiny.reasons["max_length"]
    none = best_plan(model, MANY, Room("cuda:0", 2 * GB, "NVIDIA GeForce GTX 1050"), Wanted())
    assert not none.fits and none.prediction.total > 2 * GB


def test_a_card_without_bf16_gets_fp16() -> None:
    old = best_plan(source("Gemma 2B"), FEW, Room("cuda:0", 20 * GB, "Quadro RTX 6000"), Wanted())
    assert old.plan.quantisation == "fp16"
    new = best_plan(source("Gemma 2B"), FEW, Room("cuda:0", 20 * GB, "NVIDIA RTX A4500"), Wanted())
    assert new.plan.quantisation == "bf16"


def test_short_rows_of_a_large_set_share_sequences_and_few_rows_do_not() -> None:
    many = best_plan(source("Qwen3 4B"), MANY, CARD, Wanted())
    assert many.packing and many.plan.length >= 1536
    assert many.sequences < MANY.rows / 5
    few = best_plan(source("Qwen3 4B"), FEW, CARD, Wanted())
    assert not few.packing and few.sequences == FEW.rows


def test_on_a_processor_a_small_set_is_learned_in_minutes_and_a_large_one_ends() -> None:
    few = best_plan(source("smol"), FEW, CPU, Wanted())
    assert few.plan.quantisation == "fp32" and not few.plan.checkpointing
    assert few.plan.length == 128 or FEW.cut(few.plan.length) < 0.005
    assert 30 <= few.steps <= 60 and few.learning_rate == 1e-3
    assert few.seconds < 300
    many = best_plan(source("smol"), MANY, CPU, Wanted())
    assert many.seconds <= 1800 and many.max_steps == many.steps >= 60
    assert "% of the rows" in many.reasons["max_steps"]


@pytest.mark.parametrize(("micro", "length", "peak"), [(2, 156, 3.56e9), (4, 257, 5.43e9)])
def test_memory_on_a_processor_is_foretold_as_it_was_measured(
    micro: int, length: int, peak: float
) -> None:
    """The peaks of two trainings of the starter, VmHWM of the job's process under Linux."""
    plan = TrainPlan("lora", "fp32", 16, (), micro, length, checkpointing=False)
    assert plan_train.memory(source("smol"), plan, "cpu").total == pytest.approx(peak, rel=0.05)


def test_what_is_given_stays_and_the_rest_goes_with_it() -> None:
    wanted = Wanted(
        "nf4", max_length=512, micro_batch=2, epochs=7, learning_rate=5e-5, lora_rank=64
    )
    chosen = best_plan(source("Qwen3 4B"), FEW, CARD, wanted)
    plan = chosen.plan
    assert (plan.quantisation, plan.length, plan.micro_batch, plan.rank) == ("nf4", 512, 2, 64)
    assert chosen.epochs == 7 and chosen.learning_rate == 5e-5 and not chosen.packing
    assert chosen.batch % 2 == 0 and chosen.steps == -(-91 // chosen.batch) * 7
    assert not {"learning_rate", "epochs", "quantisation"} & chosen.reasons.keys()
    whole = best_plan(source("smol"), FEW, CARD, Wanted(adapter="full"))
    assert whole.plan.method == "full" and whole.learning_rate == 2e-5
    assert whole.plan.quantisation == "bf16"


def test_a_measured_speed_counts_for_more_than_a_guess() -> None:
    model = source("smol")
    guessed = best_plan(model, FEW, CPU, Wanted()).seconds
    rate = 2 * plan_train.rate(CPU)
    assert best_plan(model, FEW, replace(CPU, rate=rate), Wanted()).seconds == pytest.approx(
        guessed / 2
    )


def test_what_a_length_cuts_is_told_from_the_bars_alone() -> None:
    assert FEW.cut(99) == 0 and FEW.cut(128) == 0
    lengths = Lengths(100, 100 * 150, 200, ((100, 201, 100),), True)
    assert lengths.cut(100) == pytest.approx(1 / 3, rel=0.02)
    assert lengths.cut(50) == pytest.approx(2 / 3, rel=0.02)
    assert lengths.kept(100) == pytest.approx(10_000, rel=0.02)


def test_an_estimate_is_taken_with_room_for_the_template() -> None:
    said = {"rows": 10, "total": 100, "longest": 20, "histogram": [(5, 21, 10)], "exact": False}
    rough = Lengths.of_item(said)
    assert rough.longest == 100 and rough.total == 730
    assert Lengths.of_item(said | {"exact": True}).longest == 20
