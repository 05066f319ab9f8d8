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
from backends.finetune.data.rows import Stopped

# Tokens of each Example, as the model will see it: chat template applied. Given by who has the
# tokenizer; asked for `BATCH` at a time.
Count = Callable[[Sequence[Example]], Sequence[int]]
BATCH = 64
TOLD = 2000  # rows after which an unfinished count is shown again
BINS = 24  # bars of the histogram


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were counted. `exact`: all of `rows` were, else it is an estimate.

    total: tokens of all rows.
    """

    rows: int
    exact: bool
    tokens: np.ndarray[Any, np.dtype[np.float64]]  # of single rows, sorted
    numbers: np.ndarray[Any, np.dtype[np.int64]]  # of those rows

    @property
    def total(self) -> int:
        return int(self.tokens.mean() * self.rows + 0.5) if len(self.tokens) else 0

    @property
    def longest(self) -> int:
        return int(self.tokens[-1] + 0.5) if len(self.tokens) else 0

    def over(self, length: int, most: int = 100) -> list[tuple[int, int]]:
        """Rows that have more tokens, the longest first: their numbers, and how many."""
        first = max(int(np.searchsorted(self.tokens, length, "right")), len(self.tokens) - most)
        pairs = zip(self.numbers[first:][::-1], self.tokens[first:][::-1], strict=True)
        return [(int(number), int(tokens + 0.5)) for number, tokens in pairs]

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
        return _sorted(report.prints.numbers, np.array(report.characters) / 4, report.kept, False)
    # What a template adds is the same for each row, however long it is: a line through the sample.
    lengths = np.array([sum(map(len, made.said())) for made in sample], dtype=np.float64)
    ratio, fixed = tokens / max(characters, 1), 0.0
    if len(set(lengths)) > 10:
        slope, base = np.polyfit(lengths, np.array(numbers, dtype=np.float64), 1)
        if slope > 0 and base >= 0:
            ratio, fixed = float(slope), float(base)
    every = np.array(report.characters) * ratio + fixed
    return _sorted(report.prints.numbers, every, report.kept, False)


def exact(
    rows: Iterable[tuple[int, Example]],
    count: Count,
    total: int = 0,
) -> Iterator[Lengths]:
    """Counts all rows; yields what is known after each `TOLD`, and at last the exact one.

    `total` (rows, where it is known) scales what comes before. Ends early where they are `Stopped`.
    """
    numbers, tokens = array("q"), array("I")
    source = iter(rows)
    while True:
        try:
            batch = list(islice(source, BATCH))
        except Stopped:
            return
        if not batch:
            break
        numbers.extend(number for number, _ in batch)
        tokens.extend(count([example for _, example in batch]))
        if len(tokens) // TOLD > (len(tokens) - len(batch)) // TOLD:
            yield _sorted(numbers, np.array(tokens), max(total, len(tokens)), False)
    yield _sorted(numbers, np.array(tokens), len(tokens), True)


def _sorted(
    numbers: array[int], tokens: np.ndarray[Any, np.dtype[Any]], rows: int, whole: bool
) -> Lengths:
    order = np.argsort(tokens, kind="stable")
    return Lengths(rows, whole, tokens[order].astype(np.float64), np.array(numbers)[order])
