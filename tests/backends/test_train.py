"""A job's process and its folder: what is written, and what is left when it ends in any way."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backends.runtime.disk import read_json
from backends.runtime.process import CHECKOUT, is_locked
from tests.backends.made_jobs import begin, job_folder, lines, run, until


def ended(folder: Path) -> dict[str, object]:
    return read_json(folder / "exit.json")


def test_a_finished_job_has_said_everything_in_its_place(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text("[]")
    folder = job_folder(tmp_path, dataset=str(data), params={"max_steps": 5})
    code, said = run(folder, tmp_path, "--progress")
    assert code == 0, said
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5]
    assert lines(folder)[1] == {"step": 2, "loss": 0.5, "lr": 0.1}
    assert lines(folder)[3] == {"step": 4, "loss": None, "lr": 0.1}, "NaN is no JSON"
    third = lines(folder, "samples.jsonl")[2]
    assert (third["step"], third["answer"]) == (3, "I am 6.")
    kinds = [line["event"] for line in lines(folder, "events.jsonl")]
    assert kinds == ["Notice", "Artifact", "Artifact"]
    assert f"a library prints {data}" in (folder / "log.txt").read_text("utf-8")
    assert [w for w in said.splitlines() if w.startswith("step ")][1:3] == [
        "step 2/5  loss 0.5  lr 0.1", "step 3/5  loss 0.3333  lr 0.1",
    ]  # fmt: skip
    assert "a library prints" not in said
    state = read_json(folder / "state.json")
    assert (state["status"], state["step"], state["total"]) == ("finished", 5, 5)
    end = ended(folder)
    assert end["status"] == "finished" and end["usage"] == {"steps": 5}
    assert not (folder / "reserve").exists() and not is_locked(folder / "job.lock")


@pytest.mark.parametrize(
    ("fault", "status", "message", "hint"),
    [
        ("refuse", "failed", "It was asked to refuse.", "Do not ask."),
        ("oom", "failed", "There was not enough memory for this.", "Choose a smaller micro-batch"),
        ("raise", "failed", "The model stopped with an unexpected error (KeyError", ""),
        ("cause", "paused", "The disk is full, so the job was paused.", "Free some space"),
        ("diverge", "diverged", "No.", "Halve."),
    ],
)
def test_a_bad_end_is_told_in_sentences_and_the_curve_stays(
    fault: str, status: str, message: str, hint: str, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path, params={"fault": fault})
    code, said = run(folder, tmp_path)
    end = ended(folder)
    assert code == 1 and end["status"] == status, said
    assert str(end["message"]).startswith(message) and str(end["hint"]).startswith(hint)
    assert [line["step"] for line in lines(folder)] == [1, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "magic"}, "There is no method 'magic'."),
        ({"task": "chat"}, "The method counting belongs to the task 'finetune', not 'chat'."),
        ({"params": {"max_steps": 0}}, "Steps is 0."),
        ({"params": {"epochs": 1}}, "There is no setting 'epochs'."),
        ({"params": []}, ""),
        ({"base": "/etc/passwd"}, "'/etc/passwd' does not name a model."),
        ({"base": 3}, "The job's base is no text."),
    ],
)
def test_a_spec_that_makes_no_sense_fails_in_a_sentence(
    more: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path, **more)
    run(folder, tmp_path)
    if message:
        assert ended(folder)["status"] == "failed"
        assert str(ended(folder)["message"]).startswith(message)
    else:
        assert ended(folder)["status"] == "finished", "no params are the defaults"


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_pause_and_stop_keep_a_checkpoint_and_resume_goes_on_from_it(
    wish: str, tmp_path: Path
) -> None:
    params = {"max_steps": 40, "step_seconds": 0.05, "save_steps": 1000}
    folder = job_folder(tmp_path, params=params)
    process = begin(folder, tmp_path)
    until(lambda: read_json(folder / "state.json").get("step", 0) >= 2)
    said = {"pause": True} if wish == "pause" else {"stop": "checkpoint"}
    (folder / "control.json").write_text(json.dumps(said))
    process.communicate(timeout=10)
    assert process.returncode == 1
    assert ended(folder)["status"] == ("paused" if wish == "pause" else "stopped")
    last = lines(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"step-{last:06}").is_dir() and last < 40
    assert run(folder, tmp_path)[0] == 0, "what was wanted then is not wanted now"
    assert [line["step"] for line in lines(folder)] == list(range(1, 41)), "no gap, none twice"
    assert (folder / "adapter").read_text() == str(sum(range(41)))
    assert read_json(folder / "state.json")["resumed"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_stop_with_a_checkpoint_and_the_second_one_ends_it(
    number: int, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path, params={"max_steps": 500, "step_seconds": 0.05, "deaf": True})
    process = begin(folder, tmp_path)
    until(lambda: read_json(folder / "state.json").get("step", 0) >= 1)
    process.send_signal(number)
    until(lambda: read_json(folder / "state.json").get("status") == "stopping")
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=10)
    assert ended(folder)["status"] == "stopped"


def test_a_signal_after_the_wish_to_stop_still_waits_for_the_checkpoint(tmp_path: Path) -> None:
    params = {"max_steps": 50, "step_seconds": 0.3, "save_steps": 1000, "save_seconds": 3.0}
    folder = job_folder(tmp_path, params=params)
    process = begin(folder, tmp_path)
    until(lambda: read_json(folder / "state.json").get("step", 0) >= 1)
    (folder / "control.json").write_text(json.dumps({"stop": "checkpoint"}))
    until(lambda: read_json(folder / "state.json").get("status") == "stopping")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert ended(folder)["status"] == "stopped"
    assert (folder / "checkpoints" / f"step-{lines(folder)[-1]['step']:06}").is_dir()


def test_a_killed_job_leaves_no_end_and_goes_on_from_the_last_sound_checkpoint(
    tmp_path: Path,
) -> None:
    folder = job_folder(tmp_path, params={"max_steps": 8, "fault": "kill", "fault_at": 6})
    assert run(folder, tmp_path)[0] == -9
    assert not (folder / "exit.json").exists() and not is_locked(folder / "job.lock")
    with (folder / "metrics.jsonl").open("a") as torn:
        torn.write('{"step": 6, "lo')
    (folder / "checkpoints" / "step-000004" / "weights").write_text("torn")
    changed = read_json(folder / "spec.json")
    changed["params"]["fault"] = ""
    (folder / "spec.json").write_text(json.dumps(changed))
    assert run(folder, tmp_path)[0] == 0
    steps = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            steps.append("torn")
    assert steps == [1, 2, 3, 4, 5, "torn", 3, 4, 5, 6, 7, 8]
    assert (folder / "adapter").read_text() == str(sum(range(9)))


def test_only_one_process_runs_a_job(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, params={"max_steps": 600, "step_seconds": 0.05})
    first = begin(folder, tmp_path)
    until(lambda: (folder / "metrics.jsonl").exists())
    code = "import backends.train as t, sys; t.PATIENCE = 0.1; sys.exit(t.main())"
    second = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert second.returncode == 3 and "This job runs already." in second.stderr
    assert first.poll() is None and not (folder / "exit.json").exists()
    first.kill()
    first.communicate()


def test_a_full_disk_pauses_and_more_room_goes_on(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, params={"max_steps": 4000, "save_steps": 5000})

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))

    code, said = run(folder, tmp_path, preexec=small)
    end = ended(folder)
    assert code == 1 and end["status"] == "paused", (said, end)
    assert end["message"] == "The disk is full, so the job was paused."
    assert run(folder, tmp_path)[0] == 0


def test_a_dataset_that_changed_is_not_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "d.json"
    data.write_text("new")
    folder = job_folder(tmp_path, dataset=str(data), dataset_sha256="0" * 64)
    run(folder, tmp_path)
    assert "has changed since this job was made" in str(ended(folder)["message"])
    data.unlink()
    run(folder, tmp_path)
    assert "is gone." in str(ended(folder)["message"])


def test_a_folder_without_a_spec_is_no_job(tmp_path: Path) -> None:
    code, said = run(tmp_path, tmp_path)
    assert code == 2 and "is no job" in said
    assert not (tmp_path / "job.lock").exists()
