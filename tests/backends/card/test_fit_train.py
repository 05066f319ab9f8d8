"""A training's memory, held against every operation of a step with nothing computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.card import fit_train
from backends.card.fit_train import TrainPlan
from backends.card.source import Source, of_config
from tests.backends.card.real_shapes import SHAPES, real

GB = 2**30
# PEFT and transformers warn of each other's old names.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def source(name: str) -> Source:
    found = of_config(SHAPES[name])
    assert found
    return found


def peak_of_all_layers(name: str, *how: Any) -> int:
    """From two and four layers, as each further one adds the same: a sixth of the time."""
    from tests.backends.card.dry_run import peak

    two, four = (peak(real(name, layers), *how) for layers in (2, 4))
    return two + (four - two) // 2 * (SHAPES[name]["num_hidden_layers"] - 2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_layer_of_a_step_adds_the_same(checkpointing: bool) -> None:
    from tests.backends.card.dry_run import peak

    how = (1, 512, checkpointing, False)
    assert peak_of_all_layers("Gemma 2B", *how) == peak(real("Gemma 2B"), *how)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "batch", "length"),
    [("Llama 3 8B", 2, 1024), ("Qwen3 4B", 1, 512), ("Gemma 2B", 1, 512), ("Llama 2 13B", 1, 2048)],
)
def test_a_step_holds_what_was_foretold(
    name: str, batch: int, length: int, checkpointing: bool, packed: bool
) -> None:
    plan = TrainPlan(
        quantisation="nf4" if packed else "bf16", micro_batch=batch, length=length,
        checkpointing=checkpointing,
    )  # fmt: skip
    model = source(name)
    assert model.shape
    trained = fit_train.trained_count(model, model.shape, plan)
    parts = fit_train.pass_parts(model.shape, plan, trained, 2 if packed else 4)
    took = peak_of_all_layers(name, batch, length, checkpointing, packed)
    assert sum(size for _, size in parts) == pytest.approx(took, rel=0.04)


def test_trained_numbers_are_those_of_peft() -> None:
    import peft
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(real("TinyLlama"))
        lora = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, lora)
    ours = source("TinyLlama")
    assert ours.shape
    plan = TrainPlan(rank=8, targets=("q", "v"))
    assert (
        fit_train.trained_count(ours, ours.shape, plan) == wrapped.get_nb_trainable_parameters()[0]
    )


def test_a_7b_model_trains_on_12_gb_with_nf4_and_not_in_16_bits() -> None:
    llama = source("Llama 2 7B")
    qlora = fit_train.predict(llama, TrainPlan(quantisation="nf4", length=2048))
    assert 5 * GB < qlora.total < 8 * GB and not qlora.uncertain
    assert fit_train.predict(llama, TrainPlan(length=2048)).total > 13 * GB
    everything = fit_train.predict(llama, TrainPlan(method="full", length=512))
    assert everything.total > 8 * 6_738_415_616


def test_more_never_needs_less() -> None:
    for name in SHAPES:
        model = source(name)
        for plan in (TrainPlan(), TrainPlan(quantisation="nf4"), TrainPlan(checkpointing=False)):
            now = fit_train.predict(model, plan).total
            more = [
                replace(plan, length=plan.length * 2), replace(plan, micro_batch=2),
                replace(plan, rank=64), replace(plan, method="full"),
                replace(plan, checkpointing=False),
            ]  # fmt: skip
            assert all(fit_train.predict(model, p).total >= now for p in more), (name, plan)
            small = replace(plan, optimizer="adamw_8bit")
            assert fit_train.predict(model, small).total < now
