"""Rows of CSV and TSV, and of Parquet."""

from __future__ import annotations

import csv
import datetime
import decimal
import importlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from backends.base import Refused
from backends.finetune.data.encoding import ESCAPED, Line
from backends.finetune.data.json_rows import wrong_bytes
from backends.finetune.data.rows import MAX_ROW, Fault, Reader

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
BATCH = 256  # rows of a Parquet file that are in memory at once


def separator(sample: str, ending: str = "") -> str:
    """The one that cuts the first lines into the most columns, the same number in nearly each."""
    best, score = "\t" if ending == ".tsv" else ",", 0.0
    for candidate in SEPARATORS:
        counts = [len(cells) for cells in _parsed(sample, candidate) if cells][:50]
        if not counts:
            continue
        usual = max(set(counts), key=counts.count)
        agree = counts.count(usual) / len(counts)
        value = agree * min(usual, 20) * (1.5 if counts[0] == usual else 1) if usual > 1 else 0.0
        if value > score:
            best, score = candidate, value
    return best


def _parsed(sample: str, candidate: str) -> Iterator[list[str]]:
    reader = csv.reader(sample.splitlines(keepends=True)[:200], delimiter=candidate)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue


def has_header(cells: list[str]) -> bool:
    """Whether the first line names the columns: short words, all there, each only once."""
    names = [cell.strip() for cell in cells]
    plain = all(0 < len(name) <= 60 and "\n" not in name for name in names)
    numbers = any(re.fullmatch(r"[-+]?[\d.,]+", name) for name in names)
    sentences = any(name.endswith((".", "?", "!", "。", "?")) for name in names)
    return plain and not numbers and not sentences and len(set(names)) == len(names)


def table_rows(lines: Iterator[Line], delimiter: str, header: bool | None = None) -> Reader:
    """Rows of a table as text. Without a header its columns are "column 1", "column 2", …

    Each row stands at the line that it begins on, counted from 1.
    """
    csv.field_size_limit(MAX_ROW)  # of the process, and it only has this one use
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        start = feed.number + 1
        feed.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, _why(error, start, feed.number)
            continue
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            if feed.too_long:
                yield start, Fault("too_long", "The line has more than 16 MB.")
            continue
        if not names:
            first = has_header(cells) if header is None else header
            names = [cell.strip() for cell in cells] if first else []
            names = names or [f"column {n}" for n in range(1, len(cells) + 1)]
            if first:
                continue
        yield start, _row(names, cells, feed)


def _why(error: csv.Error, start: int, end: int) -> Fault:
    if "end of data" in str(error):
        return Fault(
            "damaged", f"A quote that is opened in line {start:,} never closes (up to {end:,})."
        )
    if "field larger" in str(error):
        return Fault("too_long", f"A cell has more than 16 MB (lines {start:,} to {end:,}).")
    return Fault("damaged", f"It cannot be read as a table ({error}).")


def _row(names: list[str], cells: list[str], feed: _Feed) -> dict[str, Any] | Fault:
    if feed.too_long:
        return Fault("too_long", "The line has more than 16 MB.")
    if feed.damaged or any(ESCAPED.search(cell) for cell in cells):
        return wrong_bytes("line")
    if len(cells) != len(names):
        cell = "cell" if len(cells) == 1 else "cells"
        return Fault("ragged", f"It has {len(cells):,} {cell}, not {len(names):,}.")
    return dict(zip(names, cells, strict=True))


class _Feed:
    """Lines for csv.reader, which says neither where a row began nor what its bytes were."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines = lines
        self.number = 0
        self.damaged = self.too_long = False

    def clear(self) -> None:
        self.damaged = self.too_long = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.number, text, fault = next(self.lines)
        self.damaged |= fault == "encoding"
        self.too_long |= fault == "too_long"
        return text + "\n"


def parquet_rows(file: BinaryIO, name: str) -> Reader:
    """Rows of a Parquet file, a batch at a time. Raises Refused where it is none."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise Refused(
            "Parquet files are read with pyarrow, which is not installed.",
            "Install it with `pip install pyarrow`, or save the table as JSONL.",
        ) from error
    try:
        table = parquet.ParquetFile(file, pre_buffer=False)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise Refused(f"{name} is a damaged Parquet file.", "Download it again.") from error
    number, total = 0, table.metadata.num_rows
    try:
        for batch in table.iter_batches(batch_size=BATCH):
            for value in batch.to_pylist():
                number += 1
                yield number, {str(key): _plain(cell) for key, cell in value.items()}
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        why = str(error).split("\n")[0][:120]
        for lost in range(number + 1, total + 1):
            yield lost, Fault("damaged", f"The file is damaged from here on ({why}).")


def _plain(value: Any) -> Any:
    """What JSON can hold. Bytes (pictures, mostly) are named, not kept."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return {"type": "bytes", "bytes": len(value)}
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
