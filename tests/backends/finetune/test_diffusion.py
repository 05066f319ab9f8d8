"""backends/finetune/diffusion.py: whole trainings of tiny models, ended in every way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.base import ModelRef, Refused
from backends.finetune.diffusion import Diffusion
from backends.finetune.diffusion_params import DiffusionOptions, DiffusionParams
from backends.runtime import checkpoints
from tests.backends.finetune.diffusion_made import Runs, one, run_all


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("diffusion")
    return run_all(folder, [
        one(folder, "whole"),
        one(folder, "kill-vae", "first", "kill", 3), one(folder, "first"),
        one(folder, "kill-unet", "second", "kill", 7), one(folder, "second"),
        one(folder, "kill-save", "third", "kill-save", 6), one(folder, "third"),
        one(folder, "cancel", "fourth", "cancel", 5), one(folder, "fourth"),
        one(folder, "hurry", "fifth", "hurry", 5, accumulation=2),
        one(folder, "fifth", accumulation=2), one(folder, "in-two", accumulation=2),
        one(folder, "late", "whole"),
        one(folder, "nan", fault="nan", at=3),
        one(folder, "oom", fault="oom", at=3), one(folder, "oom-always", fault="oom-always", at=3),
        one(folder, "oom-step", fault="oom-step", at=3),
        one(folder, "disk", fault="disk", at=1),
        one(folder, "limit", minutes=1e-6), one(folder, "limit-again", "limit"),
        one(folder, "unconditional", kind="unconditional"),
        one(folder, "ddpm-kill", "ddpm", "kill", 3, kind="unconditional"),
        one(folder, "ddpm", kind="unconditional"),
        one(folder, "gan", kind="gan"),
        one(folder, "gan-kill", "gan-again", "kill", 3, kind="gan"),
        one(folder, "gan-again", kind="gan"),
        one(folder, "other", "gan", kind="unconditional"),
    ])  # fmt: skip


def test_every_step_is_told_and_both_stages_are_one_line_of_steps(runs: Runs) -> None:
    assert list(runs.values("whole")) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(runs.values("whole", "stage").values()) == [1] * 4 + [2] * 4
    for name in ("learning_rate", "grad_norm", "images_per_second", "memory"):
        assert len(runs.values("whole", name)) == 8
    progress = runs.events("whole", "Progress")
    assert {p["total"] for p in progress if p["total"]} == {8}
    assert runs.end("whole") == {
        "event": "Done", "cancelled": False,
        "usage": {"steps": 8, "loss": runs.values("whole")[8]},
    }  # fmt: skip


def test_a_grid_of_the_pinned_captions_grows_with_the_snapshots(runs: Runs) -> None:
    grids = [e["data"] for e in runs.events("whole", "Item") if e["kind"] == "sample_grid"]
    assert [g["step"] for g in grids] == [2, 4, 6, 8]
    assert [len(g["captions"]) for g in grids] == [4, 4, 2, 2]  # the packed are shown twice
    assert grids[2]["captions"] == grids[3]["captions"]
    assert all((runs.folder / "whole" / g["file"]).is_file() for g in grids)
    made = [(e["kind"], Path(e["path"]).is_file()) for e in runs.events("whole", "Artifact")
            if e["kind"] in ("samples", "film")]  # fmt: skip
    assert made == [("samples", True)] * 2 + [("samples", True), ("film", True)] * 2


@pytest.mark.parametrize("job", ["first", "second", "third", "fourth"])
def test_a_resume_ends_with_the_same_weights_to_the_bit(runs: Runs, job: str) -> None:
    assert runs.model(job) == runs.model("whole") and len(runs.model(job)) >= 5
    whole = runs.values("whole")
    assert runs.values(job) == {step: whole[step] for step in runs.values(job)}


def test_it_goes_on_from_the_last_sealed_snapshot(runs: Runs) -> None:
    assert list(runs.values("first"))[0] == 3  # killed after 3, saved after 2
    assert list(runs.values("second"))[0] == 7
    assert list(runs.values("third"))[0] == 5  # that of step 6 was torn
    assert list(runs.values("fourth"))[0] == 6 and 5 in runs.steps("fourth")
    assert runs.notices("fourth")[0] == "Resumed after step 5."


def test_one_that_is_done_only_saves(runs: Runs) -> None:
    assert not runs.values("late") and runs.end("late")["usage"]["steps"] == 8
    assert runs.model("whole") == runs.model("fourth")


def test_a_step_in_hurry_is_given_up_and_made_again(runs: Runs) -> None:
    assert runs.end("hurry")["cancelled"] and list(runs.values("hurry")) == [1, 2]
    assert runs.steps("fifth")[:2] == [2, 4]  # nothing new had to be saved
    assert runs.model("fifth") == runs.model("in-two")


def test_a_loss_that_is_no_number_leaves_the_last_sound_snapshot(runs: Runs) -> None:
    end = runs.end("nan")
    assert end["usage"]["status"] == "diverged" and "learning rate" in end["usage"]["hint"]
    assert list(runs.values("nan")) == [1, 2, 3, 4, 5][: len(runs.values("nan"))]
    assert runs.steps("nan") == [2] and not (runs.folder / "nan" / "model").exists()


def test_memory_that_runs_out_halves_the_micro_batch(runs: Runs) -> None:
    [told] = [n for n in runs.notices("oom") if n.startswith("Memory ran out")]
    assert told.startswith("Memory ran out at step 3. The micro-batch is now 4")
    assert runs.end("oom")["usage"]["steps"] == 8
    assert runs.values("oom")[3] == pytest.approx(runs.values("whole")[3], rel=1e-4)
    own = json.loads((runs.folder / "oom/checkpoints/step-000008/state.json").read_text())
    assert own["parts"] == 2


def test_memory_that_is_too_small_fails_and_keeps_what_there_was(runs: Runs) -> None:
    end = runs.end("oom-always")
    assert end["event"] == "Failed" and end["out_of_memory"] and "smaller size" in end["hint"]
    assert runs.steps("oom-always") == [2]
    torn = runs.end("oom-step")
    assert torn["event"] == "Failed" and "being changed" in torn["message"]
    assert runs.steps("oom-step") == [2]


def test_a_disk_that_is_short_pauses_it(runs: Runs) -> None:
    end = runs.end("disk")
    assert end["usage"]["status"] == "paused" and "free space" in end["usage"]["message"]


def test_a_time_limit_pauses_it_and_it_goes_on(runs: Runs) -> None:
    end = runs.end("limit")
    assert end["cancelled"] and end["usage"]["status"] == "paused"
    assert "time limit" in end["usage"]["message"]
    assert runs.model("limit") == runs.model("whole")


def test_the_other_kinds_resume_to_the_bit_too(runs: Runs) -> None:
    assert runs.model("ddpm") == runs.model("unconditional") and runs.model("ddpm")
    assert runs.model("gan-again") == runs.model("gan") and runs.model("gan")
    assert list(runs.values("gan", "critic_loss")) == [1, 2, 3, 4]


def test_a_checkpoint_of_another_kind_is_refused(runs: Runs) -> None:
    end = runs.end("other")
    assert end["event"] == "Failed" and "not one of this kind" in end["message"]


def test_the_model_has_a_card_that_names_no_folder(runs: Runs) -> None:
    card = (runs.folder / "whole" / "model" / "README.md").read_text("utf-8")
    assert "StableDiffusionPipeline" in card and "pictures.zip" in card
    assert str(runs.folder) not in card


def test_the_checkpoints_are_sealed(runs: Runs) -> None:
    folder = runs.folder / "whole" / "checkpoints"
    assert [checkpoints.verify(f) for f in checkpoints.steps(folder)] == [""] * 4


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        DiffusionParams(side=100)
    with pytest.raises(ValueError, match="doubles it"):
        DiffusionParams(kind="gan", side=96)
    with pytest.raises(Refused, match="begins from nothing"):
        Diffusion().load(ModelRef.parse("hub:a/b"), DiffusionOptions(device="cpu"))
