"""Datasets survive the page, are never read from elsewhere, and come back from the trash."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import Refused
from backends.finetune.data import open_dataset
from webui.finetune.datasets import EXAMPLE, TRASH_SECONDS, Datasets, How


def dropped(home: Path, name: str = "a.jsonl") -> tuple[Datasets, Path, Path]:
    uploads = home / "uploads"
    uploads.mkdir(exist_ok=True)
    file = uploads / name
    file.write_text('{"text": "x"}\n', "utf-8")
    return Datasets(home), file, uploads


def test_an_upload_is_moved_here_and_known_to_every_page(home: Path) -> None:
    datasets, file, uploads = dropped(home)
    kept = datasets.take(file, uploads, "Über mich.jsonl")
    assert not file.exists() and Path(kept.path).read_text("utf-8") == '{"text": "x"}\n'
    assert kept.name == "Über mich.jsonl" and kept.own
    assert Datasets(home).all() == [kept] and Datasets(home).get(kept.id) == kept


@pytest.mark.parametrize("name", ["how.json", "../../x.jsonl", "", "CON.json", "a\0b.csv"])
def test_any_name_of_a_file_will_do(home: Path, name: str) -> None:
    datasets, file, uploads = dropped(home)
    kept = datasets.take(file, uploads, name)
    assert Path(kept.path).is_relative_to(datasets.folder / kept.id / "file")
    assert Path(kept.path).read_text("utf-8") == '{"text": "x"}\n' and datasets.all() == [kept]


def test_a_file_outside_the_uploads_or_the_allowed_folders_is_refused(home: Path) -> None:
    datasets, file, uploads = dropped(home)
    other = home / "secret.txt"
    other.write_text("x")
    (uploads / "link").symlink_to(other)
    for wrong in (other, uploads / "link", uploads / ".." / "secret.txt", uploads / "gone"):
        with pytest.raises(Refused):
            datasets.take(wrong, uploads)
    allowed = home / "mine"
    allowed.mkdir()
    (allowed / "b.csv").write_text("a,b\n1,2\n")
    (allowed / "out").symlink_to(other)
    near = home / "mine-not"
    near.mkdir()
    (near / "c.csv").write_text("x")
    datasets = Datasets(home, lambda: [allowed])
    kept = datasets.point(f" {allowed / 'b.csv'} ")
    assert not kept.own and kept.path == str((allowed / "b.csv").resolve())
    for wrong in (near / "c.csv", allowed / "out", other, Path("/etc/passwd")):
        with pytest.raises(Refused, match="not in an allowed folder"):
            datasets.point(str(wrong))
    with pytest.raises(Refused, match="There is no file"):
        datasets.point(str(allowed / "none"))
    assert [k.id for k in datasets.all()] == [kept.id]


def test_a_change_is_undone_and_what_was_said_goes_with_it(home: Path) -> None:
    datasets, file, uploads = dropped(home)
    kept = datasets.take(file, uploads)
    datasets.remember(kept.id, kept.how, report={"rows": 1})
    assert datasets.get(kept.id).said == {"report": {"rows": 1}}
    filled = datasets.change(kept.id, steps=({"do": "fill", "values": {"name": "Ada"}},))
    assert filled.said == {} and datasets.get(kept.id) == filled
    datasets.remember(kept.id, How(), report={"rows": 2})  # of a look that began before
    assert datasets.get(kept.id).said == {}
    assert datasets.undo(kept.id).how == How() and datasets.undo(kept.id).before == ()


def test_what_is_deleted_comes_back_for_a_day(home: Path) -> None:
    datasets, file, uploads = dropped(home)
    first = datasets.take(file, uploads)
    assert datasets.delete(first.id) == first == datasets.delete(first.id)
    assert datasets.all() == []
    assert datasets.restore(first.id) == first and datasets.all() == [first]
    datasets.delete(first.id)
    old = os.stat(datasets.trash / first.id).st_mtime - TRASH_SECONDS - 1
    os.utime(datasets.trash / first.id, (old, old))
    datasets, file, uploads = dropped(home, "b.jsonl")
    second = datasets.take(file, uploads)
    datasets.delete(second.id)
    with pytest.raises(Refused, match="cannot be brought back"):
        datasets.restore(first.id)
    assert datasets.restore(second.id) == second


@pytest.mark.parametrize("id", ["../x", "", ".trash", "a/b", "A", "x" * 200, "a\0b"])
def test_an_id_is_no_path(home: Path, id: str) -> None:
    datasets = Datasets(home)
    for do in (datasets.get, datasets.delete, datasets.restore, datasets.undo):
        with pytest.raises(Refused):
            do(id)


def test_a_broken_entry_is_passed_over(home: Path) -> None:
    datasets, file, uploads = dropped(home)
    kept = datasets.take(file, uploads)
    for name, text in (("torn", '{"id": '), ("odd", json.dumps({"id": 3})), ("none", "")):
        place = datasets.folder / name
        place.mkdir()
        (place / "how.json").write_text(text)
    (datasets.folder / "empty").mkdir()
    assert datasets.all() == [kept]


def test_the_example_comes_with_werkbank_and_every_row_of_it_is_learned(home: Path) -> None:
    report = open_dataset(EXAMPLE).examine()
    assert report.kept == report.rows >= 60 and not report.findings and not report.placeholders
    datasets = Datasets(home)
    assert datasets.like(EXAMPLE) is None
    kept = datasets.copy(EXAMPLE)
    assert kept.own and Path(kept.path).is_relative_to(home) and datasets.like(EXAMPLE) == kept
    Path(kept.path).write_text("changed", "utf-8")
    assert datasets.like(EXAMPLE) is None
