"""What can still be read of a damaged SQLite file, copied into a sound one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FAILURES = 200_000  # reads of one table that may fail before the rest of it is given up


def salvage(
    broken: Path, into: sqlite3.Connection, tables: Sequence[str], after: str = ""
) -> dict[str, int]:
    """Copy the rows of `tables`; returns how many of each. `after` is a script to run at the end.

    A table's columns are those of the sound file that the broken one has, too. What does not fit
    (a text where a number belongs) is left out. Never raises for what is wrong with `broken`.
    """
    if not tables:
        return {}
    taken = dict.fromkeys(tables, 0)
    source = sqlite3.connect(f"{broken.resolve().as_uri()}?mode=ro", uri=True)
    source.text_factory = lambda raw: raw.decode("utf-8", "replace")
    source.execute("PRAGMA writable_schema = ON")  # else a file cut short is not read at all
    into.execute("PRAGMA foreign_keys = OFF")
    into.execute("BEGIN")
    try:
        for table in tables:
            taken[table] = _copy(source, into, table)
        for statement in filter(str.strip, after.split(";")):
            into.execute(statement)
        into.execute("COMMIT")
    except BaseException:
        into.execute("ROLLBACK")
        raise
    finally:
        into.execute("PRAGMA foreign_keys = ON")
        source.close()
    return taken


def _copy(source: sqlite3.Connection, into: sqlite3.Connection, table: str) -> int:
    try:
        has = {row[1] for row in source.execute(f"PRAGMA table_info ({table})")}
    except sqlite3.Error:
        return 0
    columns = [r[1] for r in into.execute(f"PRAGMA table_info ({table})") if r[1] in has]
    if not columns:
        return 0
    places = ", ".join("?" * len(columns))
    sql = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({places})"
    count = 0
    for row in _rows(source, f"SELECT {', '.join(columns)} FROM {table}"):
        try:
            count += into.execute(sql, row).rowcount
        except sqlite3.IntegrityError:
            continue  # the bytes were readable, but not what belongs there
    return count


def _rows(source: sqlite3.Connection, select: str) -> Iterator[tuple[Any, ...]]:
    """All rows that can be read: a range that fails is halved, down to the single row."""
    failures = 0
    ranges = [(1 << k, (1 << k + 1) - 1) for k in range(33, -1, -1)]
    while ranges and failures < FAILURES:
        low, high = ranges.pop()
        try:
            yield from source.execute(f"{select} WHERE rowid BETWEEN ? AND ?", (low, high))
        except sqlite3.Error:
            failures += 1
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
