"""A dataset's hash: that of a file is its own, that of a folder says names and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.base import Refused
from backends.finetune.data import open_dataset
from backends.runtime.job_spec import digest, same_dataset

ROWS = '{"text": "one"}\n{"text": "two"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "daten ü"
    (folder / "b").mkdir(parents=True)
    (folder / "a.jsonl").write_text(ROWS)
    (folder / "b" / "train.jsonl").write_text(ROWS * 2)
    (folder / "README.md").write_text("# Not a row")
    return folder


def test_a_folders_hash_can_be_reckoned_with_sha256sum(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in (("a.jsonl", ROWS), ("b/train.jsonl", ROWS * 2))
    ]
    assert digest(str(folder)) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert open_dataset(folder).sha256() == digest(str(folder))
    file = folder / "a.jsonl"
    assert digest(str(file)) == hashlib.sha256(ROWS.encode()).hexdigest()
    assert open_dataset(file).sha256() == digest(str(file))
    assert digest("") == digest(str(folder / "gone")) == ""


def edited(folder: Path) -> None:
    (folder / "a.jsonl").write_text(ROWS.replace("one", "eno"))


def renamed(folder: Path) -> None:
    (folder / "a.jsonl").rename(folder / "c.jsonl")


def swapped(folder: Path) -> None:
    (folder / "b" / "train.jsonl").rename(folder / "x")
    (folder / "a.jsonl").rename(folder / "b" / "train.jsonl")
    (folder / "x").rename(folder / "a.jsonl")


def more(folder: Path) -> None:
    (folder / "z.jsonl").write_text(ROWS)


def less(folder: Path) -> None:
    (folder / "a.jsonl").unlink()


@pytest.mark.parametrize("change", [edited, renamed, swapped, more, less])
def test_a_folder_that_changed_under_a_job_is_noticed(
    folder: Path, change: Callable[[Path], None]
) -> None:
    spec = {"dataset": str(folder), "dataset_sha256": digest(str(folder))}
    (folder / "README.md").write_text("# Still not a row")
    same_dataset(spec)
    change(folder)
    with pytest.raises(Refused, match="has changed since this job was made"):
        same_dataset(spec)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(Refused, match="is gone"):
        same_dataset(spec)
