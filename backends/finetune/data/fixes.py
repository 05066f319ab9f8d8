"""Repairs as steps, with undo; the cleaned set as a new file.

A step says what it does as plain JSON, so a manifest can hold it and a run can repeat it. Rows that
have errors are always left out; steps change rows, or leave out more. The source is only read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from backends.base import Refused
from backends.finetune.data.checks import PLACEHOLDER, CheckOptions, judge
from backends.finetune.data.fingerprints import Fingerprints
from backends.finetune.data.forms import Example
from backends.finetune.data.rows import KINDS, Fault, Row, Stopped

MANIFEST = ".manifest.json"
FORMAT, VERSION = "werkbank-dataset", 1
Made = tuple[Row, "Example | Fault"]


@dataclass(frozen=True)
class Drop:
    """Leave out rows with a remark of this kind (those with errors never come in)."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no finding {self.kind!r}. Choose one of the report.")


@dataclass(frozen=True)
class Fill:
    """Puts values in the place of `{{name}}`; names without a value stay."""

    values: tuple[tuple[str, str], ...]

    def __init__(self, values: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        pairs = values.items() if isinstance(values, Mapping) else values
        object.__setattr__(self, "values", tuple((str(n), str(v)) for n, v in pairs))


@dataclass(frozen=True)
class Trim:
    """Cut blanks at the start and end of every text."""


@dataclass(frozen=True)
class DropDuplicates:
    """Keep the first of rows that are the same; with `near`, of those that nearly are."""

    near: bool = False


@dataclass(frozen=True)
class DropRows:
    """Leave out these rows, by their number in the source: leaks, or what somebody ticked."""

    numbers: tuple[int, ...]
    why: str = "chosen"

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(int(n) for n in self.numbers))


@dataclass(frozen=True)
class Take:
    """The first `count` of what is left."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("Take at least one row. Enter a larger number.")


Step = Drop | Fill | Trim | DropDuplicates | DropRows | Take
STEPS: dict[str, type[Any]] = {
    "drop": Drop, "fill": Fill, "trim": Trim, "drop_duplicates": DropDuplicates,
    "drop_rows": DropRows, "take": Take,
}  # fmt: skip
_NAMES = {cls: name for name, cls in STEPS.items()}


def step_as_dict(step: Step) -> dict[str, Any]:
    """`{"do": "fill", "values": {...}}`"""
    values = dataclasses.asdict(step)
    if isinstance(step, Fill):
        values = {"values": dict(step.values)}
    if isinstance(step, DropRows):
        values["numbers"] = list(step.numbers)
    return {"do": _NAMES[type(step)], **values}


def step_of(value: Any) -> Step:
    """Raises ValueError for what is no step."""
    if not isinstance(value, dict) or value.get("do") not in STEPS:
        raise ValueError(f"{str(value)[:60]} is no step. Known are: {', '.join(STEPS)}.")
    rest = {key: item for key, item in value.items() if key != "do"}
    try:
        return cast(Step, STEPS[value["do"]](**rest))
    except TypeError as error:
        raise ValueError(f"The step {value['do']!r} is not complete. Set it again.") from error


class Rows(Protocol):
    """Gives all rows anew each time, from the start."""

    def __call__(self) -> Iterator[Made]: ...


def repaired(rows: Rows, steps: Sequence[Step], checks: CheckOptions) -> Iterator[Made]:
    """All rows after the steps. One that is left out comes as a Fault: a "dropped" one has the
    step's reason as its text. So as many come out as went in.

    Before a step that leaves rows out, those with errors go. A step that compares rows with each
    other reads the source once more, as far as it goes.
    """
    again: dict[int, bytearray] = {}
    for at, step in enumerate(steps):
        if isinstance(step, DropDuplicates):
            again[at] = _again(sound(repaired(rows, steps[:at], checks), checks), step.near)
    changes: list[Change] = []
    for at, step in enumerate(steps):
        if not isinstance(step, (Fill, Trim)):
            changes.append(lambda row, made: _sound(made, checks))
        if isinstance(step, DropDuplicates):
            changes.append(_dropped(again[at], "near_duplicate" if step.near else "duplicate"))
        else:
            changes.append(_change(step, checks))
    for row, made in rows():
        for change in changes:
            if isinstance(made, Fault):
                break
            made = change(row, made)
        yield row, made


def _again(rows: Iterator[Made], near: bool) -> bytearray:
    """A 1 for each row, by its number, that repeats an earlier one: 1 byte a row."""
    prints, last = Fingerprints(near), 0
    for row, made in rows:
        last = row.number
        if not isinstance(made, Fault):
            prints.add(row.number, made)
    marks = np.zeros(last + 1, dtype=np.uint8)
    marks[prints.duplicates().rows] = 1
    if near:
        marks[prints.near_duplicates().rows] = 1
    return bytearray(marks.tobytes())


def sound(rows: Iterator[Made], checks: CheckOptions) -> Iterator[Made]:
    """Those with an error, by themselves or since a step changed them, as Faults."""
    for row, made in rows:
        yield row, made if isinstance(made, Fault) else _sound(made, checks)


def _sound(made: Example, checks: CheckOptions) -> Example | Fault:
    for fault in judge(made, checks):
        if KINDS[fault.kind].level == "error":
            return fault
    try:
        "".join(made.said()).encode()
    except UnicodeEncodeError:
        return Fault("characters", "It has half a character in it.")
    return made


Change = Callable[[Row, Example], "Example | Fault"]


def _dropped(marks: bytearray, why: str) -> Change:
    gone = Fault("dropped", why)
    return lambda row, made: gone if row.number < len(marks) and marks[row.number] else made


def _change(step: Drop | Fill | Trim | DropRows | Take, checks: CheckOptions) -> Change:
    if isinstance(step, Fill):
        values = dict(step.values)

        def filled(text: str) -> str:
            return PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), text) if "{{" in text else text

        return lambda row, made: _texts(made, filled)
    if isinstance(step, Trim):
        return lambda row, made: _texts(made, str.strip)
    if isinstance(step, DropRows):
        numbers, gone = frozenset(step.numbers), Fault("dropped", step.why)
        return lambda row, made: gone if row.number in numbers else made
    if isinstance(step, Take):
        return _take(step.count)
    assert isinstance(step, Drop)
    kind = step.kind

    def dropped(row: Row, made: Example) -> Example | Fault:
        found = any(fault.kind == kind for fault in judge(made, checks))
        return Fault("dropped", kind) if found else made

    return dropped


def _take(count: int) -> Change:
    left = count

    def taken(row: Row, made: Example) -> Example | Fault:
        nonlocal left
        left -= 1
        return made if left >= 0 else Fault("dropped", "take")

    return taken


def _texts(made: Example, change: Callable[[str], str]) -> Example:
    def changed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**m, "content": change(m["content"])} for m in messages]

    return dataclasses.replace(
        made,
        text=change(made.text),
        messages=changed(made.messages),
        chosen=changed(made.chosen),
        rejected=changed(made.rejected),
    )


# The new file


@dataclass(frozen=True)
class Written:
    """A cleaned set. rows == written + the sum of left_out (reason -> rows)."""

    path: Path
    rows: int
    written: int
    left_out: dict[str, int]
    bytes: int
    sha256: str
    manifest: dict[str, Any] = field(default_factory=dict, repr=False)


def write(
    path: Path,
    rows: Iterator[Made],
    about: dict[str, Any],
    unchanged: Callable[[], bool] = lambda: True,
) -> Written | None:
    """All sound rows as JSON Lines at `path`, and `path` + ".manifest.json" beside it.

    The file is there whole or not at all; None where the rows are `Stopped`. `unchanged` says at
    the end whether the source still is what it was. Raises Refused: there already, no row left,
    no space, changed.
    """
    manifest_path = path.with_name(path.name + MANIFEST)
    for one in (path, manifest_path):
        if os.path.lexists(one):
            raise Refused(f"{one.name} is there already.", "Choose another name.")
    partial = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns():x}.partial")
    try:
        total, written, left_out, size, digest = _write_lines(partial, rows)
        if not written:
            raise Refused("No row is left to write.", "Take one of the steps back.")
        if not unchanged():
            raise Refused(
                "The file was changed by another program while it was read.", "Open it again."
            )
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "file": path.name,
            "bytes": size,
            "sha256": digest,
            "rows": {"in": total, "written": written, "left_out": left_out},
            **about,
        }
        text = json.dumps(manifest, ensure_ascii=True, indent=1) + "\n"
        manifest_path.write_text(text, encoding="utf-8")
        _put(partial, path)
    except Stopped:
        return None
    except OSError as error:
        manifest_path.unlink(missing_ok=True)
        raise Refused(
            f"{path.name} could not be written ({error.strerror or error}).",
            "Free some space, or choose another folder.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return Written(path, total, written, left_out, size, digest, manifest)


def _put(partial: Path, path: Path) -> None:
    """Give the file its name, over nothing. Not every file system has links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        os.rename(partial, path)


def _write_lines(partial: Path, rows: Iterator[Made]) -> tuple[int, int, dict[str, int], int, str]:
    """Rows in, rows written, left out by reason, bytes, sha256."""
    left_out: Counter[str] = Counter()
    total = written = size = 0
    digest = hashlib.sha256()
    with partial.open("xb") as file:
        for _, made in rows:
            total += 1
            if isinstance(made, Fault):
                left_out[made.text if made.kind == "dropped" else made.kind] += 1
                continue
            line = _line(made.as_row())
            file.write(line)
            digest.update(line)
            written += 1
            size += len(line)
        file.flush()
        os.fsync(file.fileno())
    return total, written, dict(left_out), size, digest.hexdigest()


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character in a tool's description stays as it is written
        return json.dumps(row).encode() + b"\n"


def safe_name(name: str) -> str:
    """A name for a cleaned file, from that of its source."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-._")[:60] or "dataset"
    return f"{stem}.clean.jsonl"
