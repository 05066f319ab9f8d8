"""Faults of a training in its own process, `python -m backends.train`, with the real trainer."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.runtime.disk import read_json
from backends.runtime.job_spec import digest
from backends.runtime.process import CHECKOUT, child_environment
from tests.backends.finetune.sft_made import COMMON, Runs, one, run_all
from tests.backends.made_jobs import lines, until

pytestmark = pytest.mark.model
MORE = {"lora_rank": 64, "save_steps": 1, "keep": 9, "max_steps": 5}
SLOW = """
import sys
if "backends.train" in " ".join(sys.orig_argv):
    import time, trl
    compute = trl.SFTTrainer.compute_loss
    def slow(self, *args, **more):
        time.sleep(1)
        return compute(self, *args, **more)
    trl.SFTTrainer.compute_loss = slow
"""
POISON = """
import sys
if "backends.train" in " ".join(sys.orig_argv):
    import trl
    compute = trl.SFTTrainer.compute_loss
    def wrong(self, *args, **more):
        loss = compute(self, *args, **more)
        return loss * float("nan") if self.state.global_step >= 2 else loss
    trl.SFTTrainer.compute_loss = wrong
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run that nothing happens to, and the tiny model."""
    folder = tmp_path_factory.mktemp("sft-jobs")
    return run_all(folder, [one(folder, "whole", base="folder:tiny", **MORE)])


def job(whole: Runs, name: str) -> Path:
    folder = whole.folder / "home" / "jobs" / f"20260101-000000-{name}"
    folder.mkdir(parents=True)
    dataset = str(whole.folder / "rows.json")
    asked = {
        "task": "finetune", "method": "sft", "base": "folder:tiny", "dataset": dataset,
        "dataset_sha256": digest(dataset), "options": {"device": "cpu"}, "name": name,
        "params": COMMON | MORE,
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(asked))
    return folder


def begin(
    folder: Path, path: Path | None = None, preexec: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    more = {"WERKBANK_HOME": str(folder.parents[1]), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, CHECKOUT))))}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "backends.train", str(folder)], cwd=CHECKOUT,
        stdin=subprocess.DEVNULL, env=child_environment(folder, more), preexec_fn=preexec,
    )  # fmt: skip


def train(
    folder: Path, path: Path | None = None, preexec: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Run the job to its end. Returns what it said last."""
    begin(folder, path, preexec).wait(300)
    return read_json(folder / "exit.json")


def is_whole(whole: Runs, folder: Path) -> bool:
    made = folder / "adapter" / "adapter_model.safetensors"
    return digest(str(made)) == whole.adapter("whole")


def test_one_that_was_killed_after_its_last_step_only_saves_what_it_learned(whole: Runs) -> None:
    folder = job(whole, "late")
    shutil.copytree(whole.folder / "whole" / "checkpoints", folder / "checkpoints")
    ended = train(folder)
    assert (ended["status"], ended["usage"]["steps"]) == ("finished", 5), ended
    assert is_whole(whole, folder)
    assert not (folder / "metrics.jsonl").exists()  # no step was made again, nor one too many


def test_a_dataset_that_goes_away_meanwhile_does_not_cost_the_result(
    whole: Runs, tmp_path: Path
) -> None:
    folder = job(whole, "gone")
    spec = read_json(folder / "spec.json")
    rows = shutil.copy(spec["dataset"], tmp_path / "rows.json")
    (folder / "spec.json").write_text(json.dumps(spec | {"dataset": str(rows)}))
    remove = f"""
import sys
if "backends.train" in " ".join(sys.orig_argv):
    import os, trl
    begin = trl.SFTTrainer.train
    def train(self, *args, **more):
        os.unlink({str(rows)!r})
        return begin(self, *args, **more)
    trl.SFTTrainer.train = train
"""
    (tmp_path / "sitecustomize.py").write_text(remove)
    ended = train(folder, tmp_path)
    assert ended["status"] == "finished", ended
    assert is_whole(whole, folder) and not rows.exists()


def test_what_is_damaged_in_the_newest_checkpoints_is_passed_over(whole: Runs) -> None:
    folder = job(whole, "damaged")
    shutil.copytree(whole.folder / "whole" / "checkpoints", folder / "checkpoints")
    places = {n: folder / "checkpoints" / f"step-{n:06}" for n in (2, 3, 4, 5)}
    (places[5] / "MANIFEST.json").unlink()  # killed before it was sealed
    os.truncate(places[4] / "optimizer.pt", 1000)
    weights = places[3] / "adapter_model.safetensors"
    torn = bytearray(weights.read_bytes())
    torn[len(torn) // 2] ^= 1
    weights.write_bytes(torn)
    (places[2] / "trainer_state.json").unlink()
    end = train(folder)
    assert end["status"] == "finished", end
    assert [line["step"] for line in lines(folder)] == [2, 3, 4, 5]
    assert {line["step"]: line["loss"] for line in lines(folder)} == {
        step: loss for step, loss in whole.values("whole").items() if step > 1
    }
    assert is_whole(whole, folder)
    assert len(list((folder / "checkpoints" / "broken").iterdir())) == 4, "none was deleted"


def test_a_disk_that_is_full_pauses_the_training_and_it_goes_on(whole: Runs) -> None:
    folder = job(whole, "full-disk")
    large = whole.folder / "whole" / "checkpoints" / "step-000001" / "optimizer.pt"
    most = large.stat().st_size - 1

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    end = train(folder, preexec=small)
    assert (end["status"], end["message"]) == ("paused", "The disk is full, so the job was paused.")
    assert "Free some space" in end["hint"]
    assert train(folder)["status"] == "finished"
    assert is_whole(whole, folder)


def test_a_signal_leaves_a_checkpoint_of_the_last_whole_step(whole: Runs, tmp_path: Path) -> None:
    folder = job(whole, "signal")
    spec = read_json(folder / "spec.json")
    spec["params"] |= {"save_steps": 100}
    (folder / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    process = begin(folder, tmp_path)
    curve = folder / "metrics.jsonl"
    until(lambda: curve.exists() and len(lines(folder)) >= 2, 200)
    process.terminate()
    process.wait(30)
    assert read_json(folder / "exit.json")["status"] == "stopped"
    done = lines(folder)[-1]["step"]
    assert done < 5 and (folder / "checkpoints" / f"step-{done:06}" / "MANIFEST.json").is_file()
    assert train(folder)["status"] == "finished" and is_whole(whole, folder)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5], "no step is lost"
    said = [e.get("message") for e in lines(folder, "events.jsonl")]
    assert f"Resumed after step {done}." in said


def test_a_loss_that_is_no_number_leaves_the_last_sound_snapshot(whole: Runs) -> None:
    folder = job(whole, "nan")
    place = whole.folder / "poison"
    place.mkdir()
    (place / "sitecustomize.py").write_text(POISON)
    end = train(folder, place)
    assert end["status"] == "diverged" and "learning rate" in end["hint"], end
    assert [line["loss"] is None for line in lines(folder)] == [False, False, True, True, True]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step-000001", "step-000002",
    ]  # fmt: skip
    assert not (folder / "adapter").exists()
