"""How many tokens: estimated at once from a sample, exactly in the background, and what is cut."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from backends.finetune.data.checks import Report
from backends.finetune.data.forms import Example

# Tokens of each Example, as the model will see it: chat template applied. Given by who has the
# tokenizer; asked for `BATCH` at a time.
Count = Callable[[Sequence[Example]], Sequence[int]]
BATCH = 64
BINS = 24  # bars of the histogram


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were counted. `exact`: all of `rows` were, else it is an estimate.

    total: tokens of all rows.
    """

    rows: int
    exact: bool
    tokens: np.ndarray[Any, np.dtype[np.float64]]  # of single rows, sorted

    @property
    def total(self) -> int:
        return int(self.tokens.mean() * self.rows + 0.5) if len(self.tokens) else 0

    @property
    def longest(self) -> int:
        return int(self.tokens[-1] + 0.5) if len(self.tokens) else 0

    def percentile(self, share: float) -> int:
        """Tokens that `share` (0 to 1) of the rows do not exceed."""
        return int(np.quantile(self.tokens, share) + 0.5) if len(self.tokens) else 0

    def histogram(self, bins: int = BINS) -> list[tuple[int, int, int]]:
        """Bars as (from, below, rows), equally wide in the logarithm: lengths span decades."""
        if not len(self.tokens):
            return []
        low, high = max(1, int(self.tokens[0])), self.longest + 1
        edges = np.unique(np.geomspace(low, max(high, low + 1), bins + 1).round().astype(int))
        counts, _ = np.histogram(np.maximum(self.tokens, 1), edges)
        scale = self.rows / len(self.tokens)
        return [
            (int(a), int(b), int(round(n * scale)))
            for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]

    def cut(self, length: int) -> tuple[int, int]:
        """At `length` tokens a row: how many rows are cut, and how many tokens are lost."""
        over = self.tokens[self.tokens > length]
        scale = self.rows / len(self.tokens) if len(self.tokens) else 0.0
        return int(round(len(over) * scale)), int(round((over - length).sum() * scale))


def estimate(report: Report, count: Count) -> Lengths:
    """At once: the characters of all rows are known, tokens by character from the sample."""
    sample = report.sample
    characters = sum(sum(map(len, made.said())) for made in sample)
    numbers = [n for at in range(0, len(sample), BATCH) for n in count(sample[at : at + BATCH])]
    tokens = sum(numbers)
    if not sample:
        return Lengths(report.kept, False, np.array(report.characters, dtype=np.float64) / 4)
    # What a template adds is the same for each row, however long it is: a line through the sample.
    lengths = np.array([sum(map(len, made.said())) for made in sample], dtype=np.float64)
    ratio, fixed = tokens / max(characters, 1), 0.0
    if len(set(lengths)) > 10:
        slope, base = np.polyfit(lengths, np.array(numbers, dtype=np.float64), 1)
        if slope > 0 and base >= 0:
            ratio, fixed = float(slope), float(base)
    every = np.sort(np.array(report.characters, dtype=np.float64) * ratio + fixed)
    return Lengths(report.kept, False, every)


def exact(
    rows: Iterable[Example],
    count: Count,
    cancelled: Callable[[], bool] = lambda: False,
    total: int = 0,
) -> Iterator[Lengths]:
    """Counts all rows; yields what is known after each thousand, and at last the exact one.

    `total` (rows, where it is known) scales what comes before. Ends early where it is cancelled.
    """
    numbers = array("I")
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        if cancelled():
            return
        numbers.extend(count(batch))
        if len(numbers) // 1000 > (len(numbers) - len(batch)) // 1000:
            yield _lengths(numbers, max(total, len(numbers)), False)
    yield _lengths(numbers, len(numbers), True)


def _lengths(numbers: array[int], rows: int, whole: bool) -> Lengths:
    return Lengths(rows, whole, np.sort(np.array(numbers, dtype=np.float64)))
