"""What a training can be told, and what goes wrong in it: each for real, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from backends.finetune.sft_params import SftParams
from backends.models.adapters import read_adapter
from backends.runtime import checkpoints
from tests.backends.finetune.sft_made import Runs, one, run_all

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All trainings of this file, in one process."""
    folder = tmp_path_factory.mktemp("sft-options")

    def tiny(name: str, job: str = "", pinned: Any = (), **more: Any) -> dict[str, Any]:
        if pinned:
            (folder / name).mkdir()
            (folder / name / "pinned.json").write_text(json.dumps({"steps": pinned}))
        return one(folder, name, job, base="folder:tiny", **more)

    still = {"lora_dropout": 0.0}
    four = {"micro_batch": 4, "accumulation": 2}
    rare = {"save_steps": 9}
    measured = {"validation": 0.3, "save_steps": 1}
    return run_all(folder, [
        tiny("plain", **still), tiny("rslora", adapter="rslora", **still),
        tiny("dora", adapter="dora", **still), tiny("full", adapter="full", **still),
        tiny("recomputed", checkpointing="on", **still),
        tiny("measured", max_steps=3, **measured),
        tiny("early", early_stop=2, learning_rate=0.0, max_steps=9, save_steps=1,
             validation_set={"path": str(folder / "rows.json"),
                             "steps": [{"do": "take", "count": 3}]}),
        tiny("cosine", scheduler="cosine", warmup_steps=2, max_steps=4, save_steps=9),
        tiny("cancelled", fault="cancel", at=3), tiny("continued", "cancelled"), tiny("uncut"),
        tiny("batch", **four), tiny("oom", fault="oom", at=4, **four),
        tiny("oom-first", fault="oom", at=1, **four),
        tiny("oom-late", fault="oom-late", at=3, **four),
        tiny("oom-step", fault="oom-step", at=4, **four),
        tiny("oom-step-first", fault="oom-step", at=1, **four),
        tiny("halved", micro_batch=2, accumulation=4),
        tiny("oom-step-full", fault="oom-step", at=1, adapter="full", **four),
        tiny("halved-full", adapter="full", micro_batch=2, accumulation=4),
        tiny("oom-eval", max_steps=3, fault="oom-eval", at=2, **measured),
        tiny("oom-eval-always", max_steps=3, fault="oom-eval-always", at=4, **measured),
        tiny("oom-answer", fault="oom-answer", at=1, prompts=["Who are you?", "And who am I?"]),
        *(step for at in (3, 4) for step in (
            tiny(f"hurry-{at}", fault="hurry", at=at, **four, **rare),
            tiny(f"hurried-{at}", f"hurry-{at}", **four, **rare),
        )),
        tiny("hurry-eval", max_steps=3, fault="hurry-eval", at=3, **measured),
        tiny("hurry-answer", fault="hurry-answer", at=1, prompts=["Who are you?"]),
        tiny("oom-always", fault="oom-always", at=4), tiny("after-oom", "oom-always"),
        tiny("pinned", save_steps=1, keep=2, pinned=[1]),
        tiny("nan", fault="nan", at=3), tiny("no-disk", fault="disk", at=1),
        tiny("disk", fault="disk", at=3),
        *(tiny(bits, quantisation=bits, max_steps=2) for bits in ("nf4", "int8", "bf16")),
    ])  # fmt: skip


def weights(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def test_rslora_scales_by_the_root_of_the_rank(runs: Runs) -> None:
    scales = {}
    for name in ("plain", "rslora"):
        adapter = read_adapter(runs.folder / name / "adapter")
        scales[name] = {target.scale for target in adapter.targets.values()}
    assert scales == {"plain": {32 / 4}, "rslora": {32 / 4**0.5}}
    plain, scaled = runs.values("plain"), runs.values("rslora")
    assert plain[1] == scaled[1] and plain[3] != scaled[3]


def test_dora_learns_magnitudes(runs: Runs) -> None:
    found = weights(runs.folder / "dora" / "adapter" / "adapter_model.safetensors")
    assert sum("lora_magnitude_vector" in name for name in found) == 2 * 7
    assert runs.values("dora")[5] < runs.values("dora")[1]


def test_all_weights_are_trained_and_the_card_says_so(runs: Runs) -> None:
    before = weights(runs.folder / "home" / "models" / "tiny" / "model.safetensors")
    after = weights(runs.folder / "full" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if bool((before[name] == after[name]).all())] == []
    card = (runs.folder / "full" / "model" / "README.md").read_text("utf-8")
    assert "library_name: transformers" in card and "adapter for" not in card
    assert (runs.folder / "full" / "model" / "tokenizer.json").is_file()
    snapshots = checkpoints.steps(runs.folder / "full" / "checkpoints")
    assert snapshots and all((s / "tokenizer.json").is_file() for s in snapshots)  # they can chat
    lora = checkpoints.steps(runs.folder / "dora" / "checkpoints")
    assert lora and not any((s / "tokenizer.json").is_file() for s in lora)


def test_gradient_checkpointing_computes_layers_again_and_changes_no_figure(runs: Runs) -> None:
    def passes(name: str) -> int:
        return int(runs.passes(name)[4]["passes"])

    assert passes("recomputed") == 2 * passes("plain") == 2 * 4 * 2
    for step, loss in runs.values("plain").items():
        assert abs(runs.values("recomputed")[step] - loss) < 1e-4


def test_rows_set_aside_are_measured_and_never_learned(runs: Runs) -> None:
    learned = [tuple(row) for p in runs.passes("measured") for row in p["rows"]]
    aside = [tuple(row) for p in runs.passes("measured", False) for row in p["rows"]]
    assert len(set(aside)) == 4 and len(aside) == 3 * 4 and not set(aside) & set(learned)
    losses = runs.values("measured", "validation_loss")
    assert sorted(losses) == [1, 2, 3] and losses[3] < losses[1]


def test_early_stop_ends_it_when_nothing_becomes_better(runs: Runs) -> None:
    assert sorted(runs.values("early")) == [1, 2, 3]
    assert runs.events("early")[-1]["usage"]["steps"] == 3
    said = [e["message"] for e in runs.events("early", "Notice")]
    assert any("Ended early at step 3" in message for message in said)
    assert "3 rows are in the validation set, too: not learned." in said
    learned = [tuple(row) for p in runs.passes("early") for row in p["rows"]]
    aside = [tuple(row) for p in runs.passes("early", False) for row in p["rows"]]
    assert len(set(aside)) == 3 and not set(aside) & set(learned)
    assert (runs.folder / "early" / "adapter").is_dir()


def test_early_stop_wants_rows_to_validate_with() -> None:
    with pytest.raises(ValueError, match="validation share"):
        SftParams(early_stop=2)


def test_the_learning_rate_follows_warm_up_and_scheduler(runs: Runs) -> None:
    rates = list(runs.values("cosine", "learning_rate").values())
    assert rates == pytest.approx([0, 0.5e-3, 1e-3, 0.5e-3])
    rates = list(runs.values("plain", "learning_rate").values())
    assert rates == pytest.approx([1e-3, 0.8e-3, 0.6e-3, 0.4e-3, 0.2e-3])


@pytest.mark.parametrize("kept", ["nf4", "int8", "bf16"])
def test_an_adapter_learns_on_a_base_kept_in_fewer_bits(kept: str, runs: Runs) -> None:
    assert runs.events(kept)[-1]["event"] == "Done"
    found = weights(runs.folder / kept / "adapter" / "adapter_model.safetensors")
    learned = [t for name, t in found.items() if "lora_B" in name]
    assert len(learned) == 14 and all(bool((t != 0).any()) for t in learned)
    card = (runs.folder / kept / "adapter" / "README.md").read_text("utf-8")
    assert f"kept as {kept}" in card


def test_a_pinned_snapshot_stays_while_others_make_room(runs: Runs) -> None:
    assert runs.steps("pinned") == [1, 4, 5]


def test_cancelled_it_writes_a_checkpoint_and_goes_on_from_there(runs: Runs) -> None:
    last = runs.events("cancelled")[-1]
    assert last["event"] == "Done" and last["cancelled"]
    stopped = max(runs.values("cancelled"))
    assert stopped in (3, 4) and min(runs.values("continued")) == stopped + 1
    assert runs.adapter("cancelled") == runs.adapter("uncut")


@pytest.mark.parametrize("at", [3, 4])  # the first step of the second epoch, and its second one
def test_with_seconds_left_it_gives_the_step_up_and_goes_on_as_if_uncut(
    at: int, runs: Runs
) -> None:
    assert runs.events(f"hurry-{at}")[-1]["cancelled"]
    assert max(runs.values(f"hurry-{at}")) == at - 1 and runs.steps(f"hurry-{at}")[0] == at - 1
    assert min(runs.values(f"hurried-{at}")) == at
    assert runs.adapter(f"hurry-{at}") == runs.adapter("batch")


def test_with_seconds_left_neither_validation_nor_answers_are_waited_for(runs: Runs) -> None:
    assert runs.events("hurry-eval")[-1]["cancelled"] and runs.steps("hurry-eval")[-1] == 2
    assert sorted(runs.values("hurry-eval", "validation_loss")) == [1]
    assert runs.events("hurry-answer")[-1]["cancelled"] and runs.steps("hurry-answer") == [2]
    assert [e["data"]["step"] for e in runs.events("hurry-answer", "Item")] == [0]


@pytest.mark.parametrize(
    ("name", "at"), [("oom", 4), ("oom-first", 1), ("oom-late", 3), ("oom-step", 3)]
)
def test_out_of_memory_halves_the_micro_batch_and_keeps_batch_and_order(
    name: str, at: int, runs: Runs
) -> None:
    assert any("micro-batch is now" in e["message"] for e in runs.events(name, "Notice"))
    assert runs.events(name)[-1]["event"] == "Done"

    def by_step(name: str) -> dict[int, list[list[int]]]:
        """The rows of each step, in the order in which they were learned."""
        found: dict[int, list[list[int]]] = {}
        for one_pass in runs.passes(name):
            found.setdefault(one_pass["step"], []).extend(one_pass["rows"])
        return found

    expected, found = by_step("batch"), by_step(name)
    assert [len(rows) for rows in expected.values()] == [8, 5, 8, 5, 8]
    assert found == expected
    for step, loss in runs.values("batch").items():
        # Dropout draws anew for smaller micro-batches; a step that counts twice is far from it.
        assert runs.values(name)[step] == pytest.approx(loss, abs=0.02)
    before = {n: loss for n, loss in runs.values("batch").items() if n < at}
    assert {n: loss for n, loss in runs.values(name).items() if n < at} == before


def test_out_of_memory_at_a_micro_batch_of_one_is_told_and_resumable(runs: Runs) -> None:
    last = runs.events("oom-always")[-1]
    assert last["event"] == "Failed" and last["out_of_memory"] and "shorter" in last["hint"]
    assert min(runs.values("after-oom")) == 4
    assert runs.events("after-oom")[-1]["event"] == "Done"


@pytest.mark.parametrize("kind", ["", "-full"])
def test_a_step_that_tore_the_weights_before_the_first_snapshot_begins_anew(
    kind: str, runs: Runs
) -> None:
    torn, plain = f"oom-step{kind or '-first'}", f"halved{kind}"
    assert any("back to the beginning" in e["message"] for e in runs.events(torn, "Notice"))
    assert runs.values(torn) == runs.values(plain)
    made = "model/model" if kind else "adapter/adapter_model"
    files = [(runs.folder / name / f"{made}.safetensors").read_bytes() for name in (torn, plain)]
    assert files[0] == files[1]


def test_a_step_that_tore_the_weights_goes_back_to_the_last_snapshot(runs: Runs) -> None:
    told = [e["message"] for e in runs.events("oom-step", "Notice")]
    assert any(said.startswith("Memory ran out at step 4. It goes back to step 2") for said in told)
    steps = [e["step"] for e in runs.events("oom-step", "Metric") if e["name"] == "loss"]
    assert steps == [1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "measured", "told"),
    [("oom-eval", [1, 2, 3], "at once now: 1"), ("oom-eval-always", [1, 2], "is left out")],
)
def test_out_of_memory_in_the_validation_costs_the_training_nothing(
    name: str, measured: list[int], told: str, runs: Runs
) -> None:
    assert sorted(runs.values(name, "validation_loss")) == measured
    assert sum(told in e["message"] for e in runs.events(name, "Notice")) == 1
    assert runs.values(name) == runs.values("measured")
    assert runs.adapter(name) == runs.adapter("measured")


def test_out_of_memory_in_the_answers_costs_the_training_nothing(runs: Runs) -> None:
    answers = [e["data"] for e in runs.events("oom-answer", "Item")]
    assert [(a["step"], a["prompt"]) for a in answers] == [(0, "Who are you?")]
    told = [e["message"] for e in runs.events("oom-answer", "Notice")]
    assert any("questions were answered after step 2" in said for said in told)
    assert runs.values("oom-answer") == runs.values("uncut")
    assert runs.adapter("oom-answer") == runs.adapter("uncut")


def test_a_loss_that_is_no_number_ends_it_as_diverged(runs: Runs) -> None:
    last = runs.events("nan")[-1]
    assert last["event"] == "Done" and last["usage"]["status"] == "diverged"
    assert runs.steps("nan") == [2]
    assert not (runs.folder / "nan" / "adapter").exists()


def test_short_of_disk_it_pauses(runs: Runs) -> None:
    usage = runs.events("disk")[-1]["usage"]
    assert usage["status"] == "paused" and "Free some space" in usage["hint"]
    assert runs.steps("disk") == [2]


def test_short_of_disk_for_the_first_checkpoint_it_does_not_begin(runs: Runs) -> None:
    usage = runs.events("no-disk")[-1]["usage"]
    assert usage["status"] == "paused" and "Free some space" in usage["hint"]
    assert runs.values("no-disk") == {}
    guessed = json.loads((runs.folder / "no-disk.guesses").read_text())[0]
    took = checkpoints.size_of(runs.folder / "plain" / "checkpoints" / "step-000002")
    assert 0.5 * took < guessed <= took
