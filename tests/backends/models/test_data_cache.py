"""Datasets of the hub: downloaded as a model is, found again without the network, laid out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.finetune.data import open_dataset
from backends.finetune.data.source import places_of
from backends.models import data_cache, hub, library
from backends.models.fetch import Fetch, Pace
from backends.models.hub_http import HubError
from backends.runtime.disk import read_json
from tests.backends.models.fake_hub import TOKEN, FakeHub, cut, times

NAME = "some/questions"
QUICK = Pace(stall=5, first=0.01, longest=0.04, tries=3)


def rows(count: int, start: int = 0) -> bytes:
    lines = ({"instruction": f"What is {n}?", "output": f"It is {n}."} for n in range(start, count))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


TRAIN, TEST = rows(5000), rows(20, 10)
FILES = {"README.md": b"# Questions", "train.large.jsonl": TRAIN, "test.jsonl": TEST}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf ü"))
    monkeypatch.setenv("WERKBANK_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add_dataset(NAME, FILES)
        yield server


def run(name: str = NAME, choice: str = "", token: str = "", commit: str = "") -> list[Any]:
    said: list[Any] = []
    one = Fetch(library.hub_cache(), token, lambda say, **f: said.append({"say": say, **f}),
                QUICK, 0)  # fmt: skip
    one.run(name, "main", commit, choice, "dataset")
    return said


def refusal(kind: str, **more: Any) -> HubError:
    with pytest.raises(HubError) as caught:
        run(**more)
    assert caught.value.kind == kind
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert "model" not in str(caught.value)
    return caught.value


def test_the_training_split_comes_and_lies_where_the_hubs_library_finds_it(fake: FakeHub) -> None:
    plan = run()[0]
    assert (plan["bytes"], plan["choice"], plan["ref"]) == (len(TRAIN), "train", f"hub:{NAME}")
    snapshot = library.hub_cache() / "datasets--some--questions/snapshots" / plan["commit"]
    assert [f.name for f in snapshot.iterdir()] == ["train.large.jsonl"]
    assert {a.path.split("/resolve/")[0] for a in fake.of("cdn")} == {f"/datasets/{NAME}"}
    assert fake.of("hub")[0].path == f"/api/datasets/{NAME}/revision/main"
    import huggingface_hub

    found = huggingface_hub.snapshot_download(
        NAME, repo_type="dataset", local_files_only=True, cache_dir=library.hub_cache()
    )
    assert Path(found) == snapshot


def test_it_goes_on_where_it_ended(fake: FakeHub) -> None:
    fake.faults += [times(1, cut(0.4)), cut(0.0)]
    refusal("offline")
    assert data_cache.here(NAME, "main") is None  # half a dataset is none
    fake.faults.clear()
    fake.seen.clear()
    run()
    assert [a.range for a in fake.of("cdn")] == [f"bytes={int(len(TRAIN) * 0.4)}-"]


def test_what_is_wrong_is_said_of_a_dataset(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no dataset no/where" in refusal("missing", name="no/where").message
    fake.add_dataset("a/gated", FILES, gated=True)
    assert "https://huggingface.co/datasets/a/gated" in refusal("gated", name="a/gated").hint
    assert "datasets/a/gated" in refusal("gated", name="a/gated", token=TOKEN).hint
    fake.add_dataset("a/script", {"script.py": b"pass", "README.md": b"#"})
    with pytest.raises(Refused, match="program of its own"):
        run("a/script")
    fake.add_dataset("a/trick", {"../../train.json": b"[]"})
    with pytest.raises(Refused, match="cannot be kept safely"):
        run("a/trick")
    fake.flip = True
    assert "came damaged" in refusal("damaged").message
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "offline" in refusal("offline").message
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal("offline").message


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc/passwd", "a", "a/b/c", "a/b@", "hü/x",
                                  "https://huggingface.co/datasets/a/b", "a/b\n"])  # fmt: skip
def test_a_name_of_nonsense_is_refused_as_one_of_a_dataset(name: str) -> None:
    with pytest.raises(Refused, match="does not name a dataset"):
        hub.read_repo(name, what="dataset")


def test_a_reference_has_a_version_and_a_part() -> None:
    assert data_cache.parse("hub:a/b") == ("a/b", "main", "")
    assert data_cache.parse("hub:a/b@v1.0:main/train") == ("a/b", "v1.0", "main/train")
    assert data_cache.parse("hub:a/b:große Daten/train") == ("a/b", "main", "große Daten/train")
    for wrong in ("hub:", "hub:a", "hub:../x", "hub:a/b@../x", "hub:a/b:x\ny", "a/b", "folder:x"):
        with pytest.raises(Refused, match="does not name a dataset"):
            data_cache.parse(wrong)


def test_what_is_whole_is_found_without_the_hub(fake: FakeHub) -> None:
    assert data_cache.here(NAME, "main") is None
    run(choice="test")
    assert data_cache.here(NAME, "main") is None  # the training split is not there
    found = data_cache.here(NAME, "main", "test")
    assert found and [f.path for f in found[1].files] == ["test.jsonl"]
    commit = run()[0]["commit"]
    for revision in ("main", commit):
        again = data_cache.here(NAME, revision)
        assert again and again[0].commit == commit and again[1].id == "train"
    assert data_cache.here(NAME, "v2") is None and data_cache.here(NAME, "b" * 40) is None
    with pytest.raises(Refused, match="has no nothing"):
        data_cache.here(NAME, "main", "nothing")


def test_what_another_program_brought_is_taken_offline(fake: FakeHub, tmp_path: Path) -> None:
    fake.add_dataset("x/parts", {f"train-0000{n}-of-00002.jsonl": rows(9) for n in (0, 1)})
    for name in (NAME, "x/parts"):
        run(name)
        noted = tmp_path / "cache" / "hub-datasets" / name.replace("/", "--")
        assert len(read_json(next(noted.iterdir()))["files"]) == 2
        next(noted.iterdir()).unlink()
        assert data_cache.here(name, "main") is None  # the hub knows what it consists of
        assert data_cache.here(name, "main", offline=True)
    snapshot = next((library.hub_cache() / "datasets--x--parts/snapshots").iterdir())
    (snapshot / "train-00001-of-00002.jsonl").unlink()
    assert data_cache.here("x/parts", "main", offline=True) is None


@pytest.mark.parametrize("file", ["test-00000-of-00001.jsonl", "b/train.jsonl"])
def test_what_another_program_left_of_another_part_is_not_taken_for_the_usual_one(
    fake: FakeHub, file: str
) -> None:
    id = {"b/train.jsonl": "b/train"}.get(file, "test")
    fake.add_dataset("x/two", {"a/train.jsonl": TRAIN, file: TEST})
    run("x/two", choice=id)
    noted = library.cache() / "hub-datasets" / "x--two"
    next(noted.iterdir()).unlink()
    assert data_cache.here("x/two", "main", offline=True) is None
    assert data_cache.here("x/two", "main", id) is None
    found = data_cache.here("x/two", "main", id, offline=True)
    assert found and [f.path for f in found[1].files] == [file]


@pytest.mark.parametrize("way", ["second name", "link", "copy"])
def test_a_choice_is_laid_out_alone_and_read(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError("not here")

    if way != "second name":
        monkeypatch.setattr(os, "link", no)
    run()
    found = data_cache.here(NAME, "main")
    assert found
    folder = tmp_path / "laid" / "some--questions"
    if way == "copy":
        monkeypatch.setattr(Path, "symlink_to", no)
    path = data_cache.lay_out(NAME, found[0].commit, found[1], folder)
    assert path == folder and [f.name for f in folder.iterdir()] == ["train.large.jsonl"]
    laid = folder / "train.large.jsonl"
    assert laid.is_symlink() == (way == "link") and laid.read_bytes() == TRAIN
    dataset = open_dataset(path, places_of(path))
    assert sum(1 for _ in dataset.rows()) == 5000
    if way == "link":  # nobody else may lead out of a folder
        with pytest.raises(Refused, match="may read"):
            open_dataset(path)


def test_a_zip_is_read_itself(fake: FakeHub, tmp_path: Path) -> None:
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.jsonl", TEST)
    fake.add_dataset("x/zip", {"all.zip": packed.getvalue()})
    run("x/zip")
    found = data_cache.here("x/zip", "main")
    assert found
    path = data_cache.lay_out("x/zip", found[0].commit, found[1], tmp_path / "laid")
    assert path.name == "all.zip" and sum(1 for _ in open_dataset(path).rows()) == 10
