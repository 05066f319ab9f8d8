"""A dataset as HTML: the file's own text stays text, and every number is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.base import ModelRef
from backends.events import Item
from backends.finetune.dataset import DatasetDoctor, DatasetOptions, DatasetParams
from webui.finetune import view

EVIL = '<img src=x onerror="alert(1)">'


def said(path: Path) -> dict[str, Any]:
    doctor = DatasetDoctor()
    doctor.load(ModelRef.parse("none:"), DatasetOptions())
    events = doctor.run(DatasetParams(path=str(path), do="examine"))
    return {e.kind: e.data for e in events if isinstance(e, Item)}


def test_what_stands_in_the_file_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,completion\n"{EVIL.replace(chr(34), chr(34) * 2)}",b\nx,\n', "utf-8")
    told = said(path)
    html = view.head(told["dataset"], told["report"]) + view.verdict(told["report"])
    html += view.rows(told["dataset"]) + view.lengths(told["lengths"], 512)
    assert "<img" not in html and "&lt;img" in html
    assert "1 row can be trained on, 1 row left out" in html


def test_columns_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{EVIL.replace(',', '')},b\n1,2\n", "utf-8")
    html = view.head(said(path)["dataset"], None)
    assert "Choose the column for" in html and "<img" not in html


def test_the_cut_is_that_of_the_chosen_length(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = "word " * 2000
    path.write_text(f'{{"text": "short"}}\n{{"text": "{long}"}}\n', "utf-8")
    told = said(path)["lengths"]
    assert "At 512 tokens a row 1 row would be cut" in view.lengths(told, 512)
    assert "No row is longer than 16,384 tokens" in view.lengths(told, 16384)
    assert view.lengths(told, 512).count('class="over"') >= 1
