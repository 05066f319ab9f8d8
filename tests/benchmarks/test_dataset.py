"""The dataset group runs, its file is what it says, and a cancel ends it early."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import dataset
from benchmarks.measure import Plan


@pytest.mark.alone
def test_all_rows_of_the_table_are_measured(tmp_path: Path) -> None:
    rows = list(dataset.measure(Plan(tmp_path, rows=300)))
    assert [row.what for row in rows] == [bar.what for bar in dataset.BARS]
    assert all(row.holds for row in rows), rows
    assert "300 rows" in rows[1].note and "6 near" in rows[1].note


def test_rows_have_the_size_of_the_promise(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    dataset.fill(path, 2000)
    assert 2300 < path.stat().st_size / 2000 < 2900
    got = dataset.examine(path, cancel=False)
    assert (got["rows"], got["kept"], got["left_out"], got["near"]) == (2000, 2000, 0, 40)
