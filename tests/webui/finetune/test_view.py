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
    html += view.rows(told["dataset"]) + view.lengths(told["lengths"])
    assert "<img" not in html and "&lt;img" in html
    assert "1 row can be trained on, 1 row left out" in html


def test_columns_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{EVIL.replace(',', '')},b\n1,2\n", "utf-8")
    html = view.head(said(path)["dataset"], None)
    assert "Choose the column for" in html and "<img" not in html


def test_what_the_usual_lengths_would_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = "word " * 2000
    path.write_text(f'{{"text": "short"}}\n{{"text": "{long}"}}\n', "utf-8")
    told = said(path)["lengths"]
    cut = "Would be cut: 1 row at 512 tokens, 1 row at 1,024 tokens, 1 row at 2,048 tokens, "
    assert cut + "none at 4,096." in view.lengths(told)
    path.write_text(path.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    assert "No row is longer than 256 tokens." in view.lengths(said(path)["lengths"])


def test_tokens_stay_text_and_the_cut_is_told() -> None:
    row = {
        "number": 3, "place": f"line 3 of {EVIL}", "tokens": 9, "trained": 3, "kept": 4,
        "learned": 1, "length": 4, "pieces": ["<|im_start|>", EVIL, "", "yes\n", "\t&"],
        "marks": "20013",
    }  # fmt: skip
    html = view.tokens(row)
    assert "<img" not in html and html.count("&lt;img") == 2 and "&lt;|im_start|&gt;" in html
    assert '<span class="t on">yes<i>\N{DOWNWARDS ARROW WITH TIP LEFTWARDS}</i>\n</span>' in html
    assert '<span class="t on special cut">' in html and "&amp;" in html and ">·<" in html
    assert "9 tokens, 3 of them learned. At 4 tokens the last 5 are cut, and 1 learned." in html
    assert "and 4 more tokens" in html
    row["learned"] = 0
    assert "the row is left out" in view.tokens(row)
    assert "<img" not in view.tokens({"place": EVIL, "fault": EVIL})


def test_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{EVIL.replace(',', '')};b\n<b>1</b>;2\n", "utf-8")
    html = view.columns(said(path)["dataset"])
    assert "<img" not in html and "&lt;b&gt;1&lt;/b&gt;" in html
