"""The dataset doctor on a large file: the first page of it, all of its rows, its memory, a cancel.

Each figure is taken in a process of its own: `python -m benchmarks.dataset FILE [cancel|exact]`.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from backends.base import ModelRef
from backends.finetune.data import open_dataset
from backends.finetune.dataset import DatasetDoctor, DatasetOptions
from benchmarks.measure import Bar, CannotRun, Plan, Row

PREVIEW = Bar("dataset of 500 MB: first page", 3, " s")
ROWS = Bar("dataset of 500 MB: all rows checked", 60, " s", digits=1)
MEMORY = Bar("dataset of 500 MB: growth of RSS", 300, " MB", digits=0)
EXACT = Bar("dataset of 500 MB: every token counted", 300, " s", digits=0)
HUGE_PREVIEW = Bar("dataset of 5 GB: first page", 3, " s")
HUGE_MEMORY = Bar("dataset of 5 GB: growth of RSS", 300, " MB", digits=0)
CANCEL = Bar("dataset of 5 GB: a cancel takes effect", 1, " s")
BARS = (PREVIEW, ROWS, MEMORY, EXACT, HUGE_PREVIEW, HUGE_MEMORY, CANCEL)
COPIES = 10  # of the file's rows in the huge one
CANCEL_AFTER = 10.0  # seconds
SHOWN = 20  # rows of the first page
BASE = "starter:smollm2-135m-instruct-safetensors"  # whose tokens are counted
ROOT = Path(__file__).resolve().parent.parent


def measure(plan: Plan) -> Iterator[Row]:
    home = plan.home("dataset")
    path = home / "large.jsonl"
    fill(path, plan.rows)
    size = f"{plan.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB"
    plan.say(f"  {size}")
    got = examined(path)
    yield PREVIEW.row(got["preview"], size, **got)
    told = f"{size}; {got['kept']:,} kept, {got['left_out']:,} left out, {got['near']:,} near"
    yield ROWS.row(got["examine"], told)
    yield MEMORY.row(got["rss"], f"{size}; {got['base']:.0f} MB before")
    got = examined(path, "exact")
    told = f"{size}; {got['tokens']:,} tokens of {got['rows']:,} rows; {got['rss']:.0f} MB more"
    yield EXACT.row(got["seconds"], told)
    if shutil.disk_usage(home).free < 2 * COPIES * path.stat().st_size:
        raise CannotRun(f"There is no room for {COPIES} copies of the file.")
    huge = home / "huge.jsonl"
    with huge.open("wb") as out:
        for _ in range(COPIES):
            with path.open("rb") as file:
                shutil.copyfileobj(file, out, 2**20)
    size = f"{huge.stat().st_size / 1e9:.2f} GB"
    got = examined(huge, "cancel")
    yield HUGE_PREVIEW.row(got["preview"], size, **got)
    told = f"{size}; {got['rows']:,} rows until it was cancelled, {got['base']:.0f} MB before"
    yield HUGE_MEMORY.row(got["rss"], told)
    yield CANCEL.row(got["cancel"], size)


def examined(path: Path, *how: str) -> dict[str, Any]:
    """Seconds and megabytes, from a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.dataset", str(path), *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    got: dict[str, Any] = json.loads(done.stdout)
    return got


def examine(path: Path, cancel: bool) -> dict[str, Any]:
    base = psutil.Process().memory_info().rss / 2**20
    began = time.perf_counter()
    dataset = open_dataset(path)
    shown = dataset.preview(SHOWN)
    preview = time.perf_counter() - began
    assert len(shown) == SHOWN
    began = time.perf_counter()
    asked = began

    def cancelled() -> bool:
        """Says yes once the time has come; the next sign of life is the end."""
        nonlocal asked
        now = time.perf_counter()
        if not cancel or now - began < CANCEL_AFTER:
            asked = now
            return False
        return True

    report = dataset.examine(cancelled)
    ended = time.perf_counter()
    most = peak_rss() / 2**20
    return {
        "preview": preview, "examine": ended - began, "cancel": ended - asked,
        "base": base, "rss": most - base, "rows": report.rows, "kept": report.kept,
        "left_out": report.left_out, "near": len(report.near_duplicates),
    }  # fmt: skip


def count(path: Path) -> dict[str, Any]:
    """Every token, as the page counts them in the background."""
    doctor = DatasetDoctor()
    doctor.load(ModelRef.parse(BASE), DatasetOptions())
    base = psutil.Process().memory_info().rss / 2**20
    began = time.perf_counter()
    lengths = deque(open_dataset(path).exact_lengths(doctor.count), maxlen=1)[0]
    ended = time.perf_counter()
    return {
        "seconds": ended - began, "tokens": lengths.total, "rows": lengths.rows,
        "rss": peak_rss() / 2**20 - base,
    }  # fmt: skip


def peak_rss() -> int:
    """The most RAM that this process has held, in bytes. Linux only.

    Not `ru_maxrss`: that counts what the process held before its exec, when it was its parent.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 2**10


def fill(path: Path, rows: int, seed: int = 5) -> None:
    """Conversations of about 2.5 kB, lengths as uneven as real ones, one in fifty said before."""
    dice = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = [
        "".join(dice.choices(letters, k=2 + int(dice.expovariate(0.25)))) for _ in range(20000)
    ]
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    spoken = dice.choices(words, cum_weights=weights, k=1_000_000)

    def text(mean: float) -> str:
        count = 1 + min(20_000, int(dice.lognormvariate(0, 0.8) * mean))
        start = dice.randrange(len(spoken) - count)
        return " ".join(spoken[start : start + count])

    with path.open("w", encoding="utf-8") as file:
        turns: list[dict[str, str]] = []
        for number in range(rows):
            if number % 50 == 49:  # nearly the row before
                turns[-1]["value"] += " indeed"
            else:
                turns = [
                    {"from": "human", "value": text(35)}, {"from": "gpt", "value": text(104)},
                    {"from": "human", "value": text(17)}, {"from": "gpt", "value": text(104)},
                ]  # fmt: skip
            file.write(json.dumps({"conversations": turns, "id": number}) + "\n")


if __name__ == "__main__":
    how, file = sys.argv[2:], Path(sys.argv[1])
    print(json.dumps(count(file) if "exact" in how else examine(file, "cancel" in how)))
