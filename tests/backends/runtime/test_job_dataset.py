"""A job whose dataset is on the hub: brought by the job, kept for its resume, offline too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.models import hub_token, library
from backends.runtime import run_card
from backends.runtime.disk import read_json
from backends.runtime.jobs import Jobs
from backends.runtime.process import CHECKOUT, child_environment, is_locked, kill_tree
from tests.backends.finetune.sft_made import COMMON, one, run_all
from tests.backends.made_jobs import BACKENDS, lines, plant, planted, spec, until
from tests.backends.models.fake_hub import TOKEN, FakeHub, reached_by

NAME = "some/questions"


def rows(count: int, answer: str = "It is {n} of course.") -> bytes:
    made = ({"instruction": f"What is {n}?", "input": "", "output": answer.format(n=n)}
            for n in range(count))  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made).encode()


FILES = {"train-00000-of-00002.large.jsonl": rows(13), "train-00001-of-00002.large.jsonl": rows(7),
         "test.jsonl": rows(3), "README.md": b"#"}  # fmt: skip


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with reached_by(monkeypatch, home, tmp_path) as server:
        server.add_dataset(NAME, FILES)
        yield server


@pytest.fixture
def jobs(
    fake: FakeHub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Jobs]:
    monkeypatch.setenv("PYTHONPATH", planted(tmp_path))
    before = dict(BACKENDS)
    plant()
    yield Jobs(home)
    for folder in (home / "jobs").glob("2*"):
        if is_locked(folder / "job.lock"):
            kill_tree(int(read_json(folder / "state.json")["pid"]))
    BACKENDS.clear()
    BACKENDS.update(before)


def make(jobs: Jobs, dataset: str = f"hub:{NAME}", **params: Any) -> str:
    return jobs.create(spec(dataset=dataset, params=params))


def ended(jobs: Jobs, id: str) -> dict[str, Any]:
    jobs.start(id)
    until(lambda: not jobs.state(id).live, 30, lambda: jobs.state(id))
    return read_json(jobs.path(id) / "exit.json")


def used(jobs: Jobs, id: str) -> dict[str, Any]:
    return read_json(jobs.path(id) / "dataset.json")


def test_it_is_downloaded_by_the_job_and_noted_with_its_version(jobs: Jobs, fake: FakeHub) -> None:
    hub_token.save(TOKEN)
    id = make(jobs)
    end = ended(jobs, id)
    assert end["status"] == "finished", end
    said, folder = used(jobs, id), jobs.path(id)
    commit = fake.models[f"datasets/{NAME}"].refs["main"]
    assert (said["commit"], said["choice"]) == (commit, "train")
    laid = folder / "dataset" / "some--questions"
    assert {f.name for f in laid.iterdir()} == {f for f in FILES if f.startswith("train")}
    log = (folder / "log.txt").read_text("utf-8")
    assert f"a library prints {laid}" in log and f"at version {commit[:12]}: 2 files." in log
    assert "of the dataset some/questions from the hub." in log
    assert {a.token for a in fake.of("hub")} == {TOKEN}
    everything = b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())
    assert TOKEN.encode() not in everything
    card = jobs.run_card(id)
    assert f"hub:{NAME}@{commit}:train, sha256 `{said['sha256']}`" in card
    assert run_card.spec_of(card)["dataset"] == f"hub:{NAME}@{commit}:train"
    assert jobs.disk_bytes(id) < sum(map(len, FILES.values())) + 20_000


def test_a_second_job_asks_nobody_and_a_pinned_version_is_that_version(
    jobs: Jobs, fake: FakeHub
) -> None:
    assert ended(jobs, make(jobs))["status"] == "finished"
    first = fake.models[f"datasets/{NAME}"].refs["main"]
    second = fake.commit(f"datasets/{NAME}", {"train.jsonl": rows(4, "Other.")})
    fake.seen.clear()
    id = make(jobs)
    assert ended(jobs, id)["status"] == "finished" and used(jobs, id)["commit"] == first
    assert fake.seen == []
    id = make(jobs, f"hub:{NAME}@{second}")
    assert ended(jobs, id)["status"] == "finished" and used(jobs, id)["commit"] == second
    id = make(jobs, f"hub:{NAME}@{first}:test")
    assert ended(jobs, id)["status"] == "finished" and used(jobs, id)["choice"] == "test"


def test_what_another_program_left_of_it_is_trained_on_offline_alone_and_named(
    jobs: Jobs, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(jobs, make(jobs, f"hub:{NAME}:test"))["status"] == "finished"
    noted = library.cache() / "hub-datasets"
    shutil.rmtree(noted)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "is not on this machine" in ended(jobs, make(jobs))["message"]
    id = make(jobs, f"hub:{NAME}:test")
    assert ended(jobs, id)["status"] == "finished" and used(jobs, id)["choice"] == "test"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    id = make(jobs)
    assert ended(jobs, id)["status"] == "finished" and used(jobs, id)["choice"] == "train"


def test_a_resume_takes_the_version_with_which_the_job_began(jobs: Jobs, fake: FakeHub) -> None:
    id = make(jobs, fault="raise")
    assert ended(jobs, id)["status"] == "failed"
    before = used(jobs, id)
    fake.commit(f"datasets/{NAME}", {"train.jsonl": rows(4, "Other.")})
    fake.seen.clear()
    ended(jobs, id)
    assert used(jobs, id) == before and fake.seen == []
    # The cache was emptied, and the job's own files as well: they come again, at that version.
    shutil.rmtree(library.hub_cache())
    shutil.rmtree(jobs.path(id) / "dataset")
    ended(jobs, id)
    assert used(jobs, id) == before and len(list((jobs.path(id) / "dataset").rglob("*.jsonl"))) == 2
    # What is not what it was is not trained on.
    laid = next((jobs.path(id) / "dataset").rglob("*.jsonl"))
    data = laid.read_bytes()
    laid.unlink()
    laid.write_bytes(data[:-3] + b"x}\n")
    assert "has changed since this job was made" in ended(jobs, id)["message"]


@pytest.mark.parametrize("how", ["told", "unreachable"])
def test_offline_it_is_refused_in_two_sentences_and_goes_on_later(
    jobs: Jobs, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "told":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    id = make(jobs)
    end = ended(jobs, id)
    assert end["status"] == "failed"
    assert end["message"].startswith(f"The dataset {NAME} is not on this machine, and it cannot")
    assert "then resume the job" in end["hint"] and fake.seen == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    assert ended(jobs, id)["status"] == "finished"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert ended(jobs, make(jobs))["status"] == "finished"  # it is here by now


def test_what_the_hub_refuses_is_said(jobs: Jobs, fake: FakeHub) -> None:
    fake.models[f"datasets/{NAME}"].gated = True
    end = ended(jobs, make(jobs))
    assert "is gated" in end["message"] and f"datasets/{NAME}" in end["hint"]
    fake.add_dataset("x/script", {"script.py": b"pass"})
    assert "program of its own" in ended(jobs, make(jobs, "hub:x/script"))["message"]
    for nonsense in ("hub:", "hub:nonsense", "hub:../../etc/passwd", "hub:a/b@../c"):
        with pytest.raises(Refused, match="does not name a dataset"):
            make(jobs, nonsense)


def test_no_room_for_it_pauses_the_job_until_there_is(
    jobs: Jobs, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_TEST_FETCH_SPARE", str(10**18))
    id = make(jobs)
    end = ended(jobs, id)
    assert end["status"] == "paused", end
    assert "can be used on the disk" in end["message"]
    assert "Delete what you do not need" in end["hint"]
    monkeypatch.delenv("WERKBANK_TEST_FETCH_SPARE")
    assert ended(jobs, id)["status"] == "finished"


def test_a_part_may_have_a_folder_of_any_name(jobs: Jobs, fake: FakeHub) -> None:
    fake.add_dataset("x/odd", {"große Daten/train.jsonl": rows(3), "other/train.jsonl": rows(2)})
    id = make(jobs, "hub:x/odd:große Daten/train")
    assert ended(jobs, id)["status"] == "finished"
    assert used(jobs, id)["choice"] == "große Daten/train"


def test_a_stop_ends_the_download_and_resume_goes_on(jobs: Jobs, fake: FakeHub) -> None:
    fake.add_dataset("x/large", {"train.large.jsonl": rows(60_000)})
    fake.slow = 0.1
    id = make(jobs, "hub:x/large")
    jobs.start(id)
    until(lambda: "% of" in jobs.state(id).message, 30, lambda: jobs.state(id))
    assert jobs.state(id).status == "loading"
    jobs.stop(id)
    until(lambda: jobs.state(id).status == "stopped", 10, lambda: jobs.state(id))
    assert not used(jobs, id)
    [partial] = (library.hub_cache() / "datasets--x--large" / "blobs").iterdir()
    assert partial.name.endswith(".incomplete") and partial.stat().st_size > 0
    fake.slow = 0.0
    assert ended(jobs, id)["status"] == "finished"
    assert any(a.range for a in fake.of("cdn"))


@pytest.mark.model
def test_a_real_training_on_a_dataset_of_the_hub(fake: FakeHub, tmp_path: Path) -> None:
    """In a terminal, as the README has it, with the small random model; and as on a file."""
    made = tmp_path / "made"
    made.mkdir()
    short: dict[str, Any] = {"max_steps": 3, "save_steps": 2, "base": "folder:tiny"}
    run_all(made, [one(made, "whole", **short)])  # on rows.json, whose rows are the first part
    fake.add_dataset("x/rows", {"train.jsonl": rows(13)})
    asked = {
        "task": "finetune", "method": "sft", "base": "folder:tiny", "dataset": "hub:x/rows",
        "options": {"device": "cpu"}, "params": COMMON | {"max_steps": 3, "save_steps": 2},
    }  # fmt: skip
    (tmp_path / "SPEC.json").write_text(json.dumps(asked))
    more = {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": fake.url, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "launch.py", "train", str(tmp_path / "SPEC.json"),
         "--home", str(made / "home")],
        cwd=CHECKOUT, env=child_environment(tmp_path, more), capture_output=True, text=True,
    )  # fmt: skip
    [folder] = (made / "home" / "jobs").glob("2*")
    end = read_json(folder / "exit.json")
    assert done.returncode == 0 and end["status"] == "finished", (done.stdout, done.stderr, end)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3]
    adapter = folder / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == (made / "whole/adapter/adapter_model.safetensors").read_bytes()
    card = (folder / "adapter" / "README.md").read_text("utf-8")
    assert read_json(folder / "dataset.json")["sha256"] in card
