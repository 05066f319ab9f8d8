"""The benchmark of predictions: its cells, its draw, and that it runs, with small shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fit_gpu


def test_twenty_of_more_than_forty_cells_are_drawn_by_the_seed() -> None:
    cells, every = fit_gpu.first_cells(), fit_gpu.all_cells()
    assert len(cells) >= 40 and len({cell.name for cell in every}) == len(every)
    assert sorted(c.name for c in [*cells, *fit_gpu.chosen("others", 1)]) == sorted(
        c.name for c in every
    )
    drawn, rest = fit_gpu.chosen("drawn", 1), fit_gpu.chosen("rest", 1)
    assert len(drawn) == 20 and sorted(c.name for c in drawn + rest) == sorted(
        c.name for c in cells
    )
    assert drawn == fit_gpu.chosen("drawn", 1) != fit_gpu.chosen("drawn", 2)
    with pytest.raises(SystemExit, match="no such cells: nonsense"):
        fit_gpu.chosen("nonsense", 1)


def test_accelerate_counts_only_weights() -> None:
    cell = fit_gpu.Cell("x", "chat", "7b", "bf16", 1024)
    assert fit_gpu.accelerates(cell, tiny=False) == pytest.approx(2 * 6_738_415_616, rel=0.001)
    assert fit_gpu.accelerates(fit_gpu.Cell("x", "train", "7b", "bf16", 512), tiny=False) == 0


def test_it_runs_with_small_shapes(tmp_path: Path) -> None:
    names = "chat-7b-nf4-1024,qlora-7b-1x512-ckpt"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fit_gpu", "--tiny",
               "--cells", names, "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert ",".join(row["name"] for row in rows) == names
    assert len(json.loads((tmp_path / "predictions.json").read_text())) >= 40
