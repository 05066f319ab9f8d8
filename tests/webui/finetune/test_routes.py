"""What the job panel is told, from real job folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from backends.runtime.disk import write_json
from backends.runtime.jobs import Jobs
from webui.finetune.datasets import Datasets
from webui.finetune.routes import POINTS, build_job_routes, thinned

ID = "20260101-000000-mine"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs" / ID
    folder.mkdir(parents=True)
    spec = {"task": "finetune", "method": "sft", "name": "mine", "base": "starter:x",
            "dataset": "/home/x/data.jsonl", "params": {"epochs": 2}, "key": "secret"}  # fmt: skip
    write_json(folder / "spec.json", spec)
    lines = [{"step": n, "loss": 1 / n} for n in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    said = [{"step": 0, "prompt": "Who?", "answer": "<b>me</b>"}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(x) + "\n" for x in said))
    notices = [{"event": "Notice", "message": f"note {n}"} for n in range(9)]
    (folder / "events.jsonl").write_text("".join(json.dumps(x) + "\n" for x in notices))
    write_json(folder / "state.json", {"status": "running", "step": 5, "total": 9, "pid": 1})
    return tmp_path


@pytest.fixture
def client(home: Path) -> TestClient:
    app = FastAPI()
    nothing = SimpleNamespace(waiting_because=lambda id: "", running_refs=lambda: [])
    bench: Any = SimpleNamespace(home=home, jobs=Jobs(home), job_ledger=nothing, merges=nothing)
    app.include_router(build_job_routes(bench))
    return TestClient(app)


def test_a_job_is_told_whole_and_then_only_what_is_new(client: TestClient, home: Path) -> None:
    said = client.get(f"/api/jobs/{ID}").json()
    assert said["job"]["status"] == "interrupted" and said["job"]["resumable"]
    assert [line["step"] for line in said["metrics"]] == [1, 2, 3, 4, 5]
    assert said["samples"][0]["answer"] == "<b>me</b>" and said["disk_bytes"] > 0
    assert said["notices"] == [f"note {n}" for n in range(3, 9)]
    assert said["about"]["dataset"] == "data.jsonl"  # no path of this computer
    assert "secret" not in json.dumps(said)
    with (home / "jobs" / ID / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0.1}\n')
    where = {"metrics": said["metrics_byte"], "samples": said["samples_byte"]}
    again = client.get(f"/api/jobs/{ID}", params=where).json()
    assert [line["step"] for line in again["metrics"]] == [6] and again["samples"] == []


@pytest.mark.parametrize("id", ["20990101-000000-none", "..", "%2e%2e%2f", "a b", ".trash"])
def test_what_is_no_job_is_not_found(client: TestClient, id: str) -> None:
    for path in (f"/api/jobs/{id}", f"/api/jobs/{id}/card"):
        assert client.get(path).status_code == 404


def test_what_was_deleted_is_listed_until_it_is_gone_for_good(
    client: TestClient, home: Path
) -> None:
    jobs = Jobs(home)
    jobs.rename(ID, "mine indeed")
    jobs.delete(ID)
    said = client.get("/api/jobs").json()
    assert said["jobs"] == []
    assert [(one["id"], one["name"]) for one in said["deleted"]] == [(ID, "mine indeed")]
    jobs.undo_delete(ID)
    assert client.get("/api/jobs").json()["deleted"] == []
    jobs.delete(ID)
    jobs.empty_trash(older=0)
    assert client.get("/api/jobs").json()["deleted"] == []


def test_all_jobs_are_listed_without_their_insides(client: TestClient) -> None:
    [row] = client.get("/api/jobs").json()["jobs"]
    assert (row["id"], row["name"], row["live"]) == (ID, "mine", False)
    assert "pid" not in row and "detail" not in row


def test_a_long_curve_is_thinned_but_keeps_its_end_and_what_is_rare() -> None:
    lines: list[dict[str, Any]] = [{"step": n, "loss": 1.0} for n in range(1, 100_001)]
    lines[777]["validation_loss"] = 0.5
    thin = thinned(lines)
    assert len(thin) <= POINTS + 2 and thin[0]["step"] == 1 and thin[-1]["step"] == 100_000
    assert lines[777] in thin
    assert thinned(lines[:POINTS]) == lines[:POINTS]


def test_a_dataset_that_lies_in_home_is_given_to_the_browser_and_no_other_file(
    client: TestClient, home: Path
) -> None:
    mine = home / "mine"
    mine.mkdir()
    (mine / "Über mich.jsonl").write_text('{"text": "x"}\n', "utf-8")
    datasets = Datasets(home, lambda: [mine])
    own, other = datasets.copy(mine / "Über mich.jsonl"), datasets.point(f"{mine}/Über mich.jsonl")
    got = client.get(f"/api/datasets/{own.id}/file")
    assert got.text == '{"text": "x"}\n' and "attachment" in got.headers["content-disposition"]
    for wrong in (other.id, "gone", "..", "..%2f..%2fmine"):
        assert client.get(f"/api/datasets/{wrong}/file").status_code == 404
    how = home / "datasets" / own.id / "how.json"
    how.write_text(json.dumps(json.loads(how.read_text("utf-8")) | {"path": "/etc/passwd"}))
    assert client.get(f"/api/datasets/{own.id}/file").status_code == 404
