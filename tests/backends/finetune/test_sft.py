"""Supervised fine-tuning with the real starter model: killed, resumed, out of memory, diverged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.finetune.sft_params import SftParams
from backends.runtime import checkpoints

pytestmark = pytest.mark.model
COMMON = {"max_steps": 5, "save_steps": 2, "seed": 7, "lora_rank": 4, "lora_dropout": 0.1,
          "micro_batch": 2, "accumulation": 1, "max_length": 64, "learning_rate": 1e-3}  # fmt: skip


class Runs:
    """What the trainings said, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self, name: str, kind: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        return [e for e in map(json.loads, lines) if kind in ("", e["event"])]

    def losses(self, name: str) -> dict[int, float]:
        found = self.events(name, "Metric")
        return {e["step"]: e["value"] for e in found if e["name"] == "loss"}

    def steps(self, job: str) -> list[int]:
        return [
            checkpoints.step_of(f) for f in checkpoints.steps(self.folder / job / "checkpoints")
        ]

    def adapter(self, job: str) -> str:
        file = self.folder / job / "adapter" / "adapter_model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All trainings of this file, in one process that opens the base once."""
    folder = tmp_path_factory.mktemp("sft")
    rows = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n} of course."}
            for n in range(13)]  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")

    def one(name: str, job: str, fault: str = "", at: int = 0, **more: Any) -> dict[str, Any]:
        params = {**COMMON, **more, "folder": str(folder / job),
                  "dataset": str(folder / "rows.json")}  # fmt: skip
        return {"name": name, "params": params, "fault": fault, "at": at}

    packed = {"packing": True, "max_length": 96, "micro_batch": 1}
    specs = [
        {"name": "cross"},
        one("whole", "whole", prompts=["Who are you?"], prompt_tokens=6),
        one("killed", "killed", "kill", 4), one("resumed", "killed"),
        one("torn", "torn", "kill-save", 4), one("mended", "torn"),
        one("packed", "packed", **packed),
        one("packed-killed", "packed-killed", "kill", 4, **packed),
        one("packed-resumed", "packed-killed", **packed),
        one("cancelled", "cancelled", "cancel", 3), one("continued", "cancelled"),
        one("oom", "oom", "oom", 4), one("oom-always", "oom-always", "oom-always", 4),
        one("after-oom", "oom-always"),
        one("nan", "nan", "nan", 3), one("disk", "disk", "disk"),
    ]  # fmt: skip
    (folder / "specs.json").write_text(json.dumps(specs), "utf-8")
    script = Path(__file__).with_name("sft_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "specs.json")], capture_output=True, text=True
    )
    (folder / "log.txt").write_text(done.stderr, "utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    return Runs(folder)


def test_a_training_leaves_an_adapter_with_a_card(runs: Runs) -> None:
    assert runs.events("whole")[-1]["event"] == "Done"
    assert runs.steps("whole") == [2, 4, 5]
    losses = runs.losses("whole")
    assert sorted(losses) == [1, 2, 3, 4, 5] and losses[5] < losses[1]
    card = (runs.folder / "whole" / "adapter" / "README.md").read_text("utf-8")
    digest = hashlib.sha256((runs.folder / "rows.json").read_bytes()).hexdigest()
    assert digest in card and "smollm2" in card and f"{losses[5]:.4f}" in card
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
    expected = runs.losses(whole)
    assert runs.events(killed)[-1]["event"] != "Done"
    assert min(runs.losses(resumed)) == 3 if job == "torn" else 5 >= min(runs.losses(resumed)) > 2
    assert {**runs.losses(killed), **runs.losses(resumed)} == expected
    assert runs.adapter(job) == runs.adapter(whole)


def test_cancelled_it_writes_a_checkpoint_and_goes_on_from_there(runs: Runs) -> None:
    last = runs.events("cancelled")[-1]
    assert last["event"] == "Done" and last["cancelled"]
    stopped = max(runs.losses("cancelled"))
    assert stopped in (3, 4) and min(runs.losses("continued")) == stopped + 1
    assert runs.adapter("cancelled") == runs.adapter("whole")


def test_out_of_memory_halves_the_micro_batch_and_keeps_batch_and_order(runs: Runs) -> None:
    assert any("micro-batch is now 1" in e["message"] for e in runs.events("oom", "Notice"))
    assert runs.events("oom")[-1]["event"] == "Done"
    expected, found = runs.losses("whole"), runs.losses("oom")
    assert [found[n] for n in (1, 2, 3)] == [expected[n] for n in (1, 2, 3)]
    assert abs(found[4] - expected[4]) < 0.3  # the same rows, another draw of the dropout


def test_out_of_memory_at_a_micro_batch_of_one_is_told_and_resumable(runs: Runs) -> None:
    last = runs.events("oom-always")[-1]
    assert last["event"] == "Failed" and last["out_of_memory"] and "shorter" in last["hint"]
    assert min(runs.losses("after-oom")) == 4
    assert runs.events("after-oom")[-1]["event"] == "Done"


def test_a_loss_that_is_no_number_ends_it_as_diverged(runs: Runs) -> None:
    last = runs.events("nan")[-1]
    assert last["event"] == "Done" and last["usage"]["status"] == "diverged"
    assert runs.steps("nan") == [2]
    assert not (runs.folder / "nan" / "adapter").exists()


def test_short_of_disk_it_pauses(runs: Runs) -> None:
    usage = runs.events("disk")[-1]["usage"]
    assert usage["status"] == "paused" and "Free some space" in usage["hint"]
    assert runs.steps("disk") == [2]


def test_packed_rows_do_not_see_each_other(runs: Runs) -> None:
    figures = json.loads((runs.folder / "cross.jsonl").read_text("utf-8"))
    assert abs(figures["behind"] - figures["alone"]) < 1e-3
    assert abs(figures["seen"] - figures["alone"]) > 0.1  # what the first assertion guards against


def test_early_stop_wants_rows_to_validate_with() -> None:
    with pytest.raises(ValueError, match="validation share"):
        SftParams(early_stop=2)
