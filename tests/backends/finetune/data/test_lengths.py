"""Tokens: an estimate at once, the exact number in the background, and what is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.finetune.data import Dataset, Example, open_dataset

TEMPLATE = 11  # tokens that a chat template adds


def count(rows: Sequence[Example]) -> list[int]:
    return [TEMPLATE + sum(len(text.split()) for text in row.said()) for row in rows]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = random.Random(3)
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for _ in range(3000):
            words = " ".join(rng.choice(("a", "bird", "sings", "loudly")) for _ in range(
                int(rng.lognormvariate(4, 1)) + 1))  # fmt: skip
            file.write(json.dumps({"prompt": "Say it again", "completion": words}) + "\n")
    return open_dataset(path)


def test_the_estimate_comes_near_and_says_that_it_is_one(dataset: Dataset) -> None:
    report = dataset.examine()
    asked: list[int] = []

    def counted(rows: Sequence[Example]) -> list[int]:
        asked.append(len(rows))
        return count(rows)

    estimate = dataset.lengths(report, counted)
    assert sum(asked) == 200
    *_, exact = dataset.exact_lengths(count, total=report.kept)
    true = sum(count(list(dataset.examples())))
    assert exact.exact and exact.total == true and exact.rows == 3000
    assert not estimate.exact and estimate.rows == 3000
    assert abs(estimate.total - true) < 0.03 * true
    assert estimate.over(0, 1)[0][0] == exact.over(0, 1)[0][0]
    assert abs(estimate.percentile(0.95) - exact.percentile(0.95)) < 0.1 * exact.percentile(0.95)


def test_the_exact_one_grows_and_can_be_cancelled(dataset: Dataset) -> None:
    steps = list(dataset.exact_lengths(count, total=3000))
    assert [step.exact for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(step.rows == 3000 for step in steps) and len(steps) == 2
    asked = iter(range(5000))
    cancelled = list(dataset.exact_lengths(count, cancelled=lambda: next(asked) > 2500))
    assert cancelled and not any(step.exact for step in cancelled)


def test_what_a_length_cuts(dataset: Dataset) -> None:
    numbers = count(list(dataset.examples()))
    *_, exact = dataset.exact_lengths(count)
    for length in (20, 64, 512, 10_000):
        over = [n - length for n in numbers if n > length]
        assert exact.cut(length) == (len(over), sum(over))
    longest = sorted(enumerate(numbers, 1), key=lambda pair: -pair[1])
    assert exact.over(0, 3) == longest[:3]
    assert exact.over(max(numbers)) == [] and exact.over(max(numbers) - 1) == longest[:1]
    bars = exact.histogram()
    assert sum(rows for _, _, rows in bars) == 3000
    assert bars[0][0] <= min(numbers) and bars[-1][1] > max(numbers)
    for low, high, rows in bars:
        assert rows == sum(low <= n < high for n in numbers)


def test_nothing_to_count_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "completion": ""}\n')
    dataset = open_dataset(path)
    estimate = dataset.lengths(dataset.examine(), count)
    (exact,) = dataset.exact_lengths(count)
    for none in (estimate, exact):
        assert (none.total, none.longest, none.percentile(0.9)) == (0, 0, 0)
        assert none.histogram() == [] and none.cut(10) == (0, 0)
        assert none.over(0) == []
