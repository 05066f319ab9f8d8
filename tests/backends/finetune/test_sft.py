"""Supervised fine-tuning with the real starter model: killed and resumed, packed or not."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.backends.finetune.sft_made import Runs, one, run_all

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All trainings of this file, in one process that opens the base once."""
    folder = tmp_path_factory.mktemp("sft")
    packed = {"packing": True, "max_length": 96, "micro_batch": 1}
    return run_all(folder, [
        {"name": "cross"},
        one(folder, "whole", prompts=["Who are you?"], prompt_tokens=6),
        one(folder, "killed", fault="kill", at=4), one(folder, "resumed", "killed"),
        one(folder, "torn", fault="kill-save", at=4), one(folder, "mended", "torn"),
        one(folder, "packed", **packed),
        one(folder, "packed-killed", fault="kill", at=4, **packed),
        one(folder, "packed-resumed", "packed-killed", **packed),
    ])  # fmt: skip


def test_a_training_leaves_an_adapter_with_a_card(runs: Runs) -> None:
    assert runs.events("whole")[-1]["event"] == "Done"
    assert runs.steps("whole") == [2, 4, 5]
    losses = runs.values("whole")
    assert sorted(losses) == [1, 2, 3, 4, 5] and losses[5] < losses[1]
    card = (runs.folder / "whole" / "adapter" / "README.md").read_text("utf-8")
    digest = hashlib.sha256((runs.folder / "rows.json").read_bytes()).hexdigest()
    assert digest in card and "smollm2" in card and f"{losses[5]:.4f}" in card
    config = json.loads((runs.folder / "whole" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "starter:smollm2-135m-instruct-safetensors"
    saved = json.loads(
        (runs.folder / "whole" / "checkpoints" / "step-000005" / "adapter_config.json").read_text()
    )
    assert saved == config, "no path of this computer in a checkpoint either"
    samples = [e["data"] for e in runs.events("whole", "Item")]
    assert [s["step"] for s in samples] == [0, 2, 4, 5] and all(s["answer"] for s in samples)


@pytest.mark.parametrize(
    ("whole", "killed", "resumed", "job"),
    [("whole", "killed", "resumed", "killed"), ("whole", "torn", "mended", "torn"),
     ("packed", "packed-killed", "packed-resumed", "packed-killed")],
)  # fmt: skip
def test_killed_and_resumed_it_is_the_run_never_killed(
    runs: Runs, whole: str, killed: str, resumed: str, job: str
) -> None:
    expected = runs.values(whole)
    assert runs.events(killed)[-1]["event"] != "Done"
    assert min(runs.values(resumed)) == 3 if job == "torn" else 5 >= min(runs.values(resumed)) > 2
    assert {**runs.values(killed), **runs.values(resumed)} == expected
    assert runs.adapter(job) == runs.adapter(whole)


def test_packed_rows_do_not_see_each_other(runs: Runs) -> None:
    figures = json.loads((runs.folder / "cross.jsonl").read_text("utf-8"))
    assert abs(figures["behind"] - figures["alone"]) < 1e-3
    assert abs(figures["seen"] - figures["alone"]) > 0.1  # what the first assertion guards against
