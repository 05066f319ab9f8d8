"""Every row is either kept or reported: the sum is always the number of rows.

An "error" leaves a row out; a row may have several, and counts once. "Remarks" are told, and the
row is kept. Findings are counted by kind, with the first row numbers.
"""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from backends.finetune.data.fingerprints import MOST_NEAR, Fingerprints, Pairs
from backends.finetune.data.forms import Example, Mapping, Wrong, example
from backends.finetune.data.rows import KINDS, Fault, Kind, Row, Stopped
from backends.params import Params, setting

SHOWN = 100  # rows of a finding that are kept one by one
SAMPLE, SAMPLE_CHARACTERS = 200, 20_000  # rows kept for an estimate of tokens, at most so long
MANY_NAMES = 200  # placeholders that are told apart
ONE = {"have": "has", "are": "is", "do": "does", "were": "was", "repeat": "repeats"}
PLACEHOLDER = re.compile(r"\{\{\s*([^\W\d][\w.-]{0,39})\s*\}\}")


@dataclass(frozen=True)
class CheckOptions(Params):
    """What is looked for."""

    long_characters: int = setting(
        100_000, "Very long from", min=100, max=100_000_000, unit="characters"
    )
    near: bool = setting(True, "Look for near-duplicates", help="Takes about a third of the time.")


@dataclass
class Finding:
    """One kind of finding: how many rows have it, and the first of them."""

    kind: str
    count: int = 0
    rows: list[tuple[int, str, str]] = field(default_factory=list)  # number, place, sentence

    @property
    def about(self) -> Kind:
        return KINDS[self.kind]

    @property
    def sentence(self) -> str:
        """ "12 rows have no answer to learn from." """
        text = self.about.text
        if self.count == 1:
            first, rest = text.split(" ", 1)
            text = f"{ONE.get(first, first)} {rest}"
        return f"{self.count:,} {'row' if self.count == 1 else 'rows'} {text}."

    def add(self, row: Row, sentence: str = "") -> None:
        self.count += 1
        if len(self.rows) < SHOWN:
            self.rows.append((row.number, row.place, sentence))


@dataclass
class Report:
    """What all rows are like. `complete` is false where somebody cancelled.

    `kept` rows can be trained on; `left_out` have at least one error: together they are `rows`.
    characters: of each kept row, in order. sample: some kept rows, for an estimate of tokens.
    """

    rows: int = 0
    kept: int = 0
    left_out: int = 0
    complete: bool = False
    findings: dict[str, Finding] = field(default_factory=dict)
    placeholders: Counter[str] = field(default_factory=Counter)  # name -> rows that have it
    characters: array[int] = field(default_factory=lambda: array("I"))
    sample: list[Example] = field(default_factory=list)
    duplicates: Pairs = field(default_factory=Pairs.none)  # row -> the first one like it
    near_duplicates: Pairs = field(default_factory=Pairs.none)
    leaks: Pairs = field(default_factory=Pairs.none)  # row -> row of the validation set
    notes: list[str] = field(default_factory=list)
    prints: Fingerprints = field(default_factory=Fingerprints)

    def errors(self) -> list[Finding]:
        return self._of("error")

    def remarks(self) -> list[Finding]:
        return self._of("remark")

    def _of(self, level: str) -> list[Finding]:
        found = [f for f in self.findings.values() if f.about.level == level]
        return sorted(found, key=lambda f: -f.count)

    def as_dict(self) -> dict[str, Any]:
        """For a file or a page: counts and the first rows of each finding."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "left_out": self.left_out,
            "complete": self.complete,
            "characters": sum(self.characters),
            "placeholders": dict(self.placeholders),
            "notes": self.notes,
            "findings": [
                {"kind": f.kind, "level": f.about.level, "count": f.count, "text": f.sentence,
                 "help": f.about.help, "rows": f.rows}
                for f in (*self.errors(), *self.remarks())
            ],
        }  # fmt: skip


class Examination:
    """Takes rows one by one; `report` stands at any time, `finish` adds what needs all rows."""

    def __init__(self, options: CheckOptions) -> None:
        self.options = options
        self.report = Report(prints=Fingerprints(options.near))
        self.random = random.Random(7)  # which rows are in the sample: the same each time
        self.places: dict[int, Row] = {}

    def add(self, row: Row, made: Example | Fault) -> None:
        """One row, as `normal` made it."""
        report = self.report
        report.rows += 1
        faults = [made] if isinstance(made, Fault) else judge(made, self.options)
        if not isinstance(made, Fault) and not _is_error(faults):
            try:
                report.prints.add(row.number, made)
            except UnicodeEncodeError:
                faults.append(Fault("characters", "It has half a character in it."))
        for fault in faults:
            self._finding(fault.kind).add(row, fault.text)
        if isinstance(made, Fault) or _is_error(faults):
            report.left_out += 1
            return
        report.kept += 1
        said = made.said()
        report.characters.append(min(sum(map(len, said)), 2**32 - 1))
        self._placeholders(said)
        self._sample(made, report.characters[-1])

    def _finding(self, kind: str) -> Finding:
        return self.report.findings.setdefault(kind, Finding(kind))

    def _placeholders(self, said: list[str]) -> None:
        names = {name for text in said if "{{" in text for name in PLACEHOLDER.findall(text)}
        for name in sorted(names):
            if name in self.report.placeholders or len(self.report.placeholders) < MANY_NAMES:
                self.report.placeholders[name] += 1

    def _sample(self, made: Example, characters: int) -> None:
        """Reservoir: each kept row that is not too long has the same chance."""
        if characters > SAMPLE_CHARACTERS:
            return
        sample = self.report.sample
        if len(sample) < SAMPLE:
            sample.append(made)
        elif (at := self.random.randrange(self.report.kept)) < SAMPLE:
            sample[at] = made

    def finish(self, validation: Fingerprints | None = None) -> Report:
        """Duplicates, near-duplicates and leaks, which need all rows."""
        report, prints = self.report, self.report.prints
        report.duplicates = prints.duplicates()
        self._tell("duplicate", report.duplicates)
        if self.options.near:
            report.near_duplicates = prints.near_duplicates()
            self._tell("near_duplicate", report.near_duplicates)
            if not prints.all_near:
                report.notes.append(
                    f"Near-duplicates were looked for in the first {MOST_NEAR:,} rows."
                )
        if validation is not None:
            report.leaks = prints.shared(validation)
            self._tell("leak", report.leaks)
        report.complete = True
        return report

    def _tell(self, kind: str, pairs: Pairs) -> None:
        if not pairs:
            return
        finding = self._finding(kind)
        finding.count = len(pairs)
        finding.rows = [
            (row, f"row {row:,}", f"As row {pairs[row]:,}.") for row in islice(pairs, SHOWN)
        ]


def normal(row: Row, mapping: Mapping) -> Example | Fault:
    """The row in normal form, or why it has none."""
    if row.fault is not None or row.value is None:
        return row.fault or Fault("damaged", "It is empty.")
    try:
        return example(row.value, mapping)
    except Wrong as wrong:
        return wrong.fault
    except RecursionError:
        return Fault("shape", "It is nested too deeply.")


def examine(
    rows: Iterable[tuple[Row, Example | Fault]],
    options: CheckOptions,
    validation: Fingerprints | None = None,
) -> Report:
    """The report on all rows; on those so far, not `complete`, where they are `Stopped`."""
    examination = Examination(options)
    try:
        for row, made in rows:
            examination.add(row, made)
    except Stopped:
        return examination.report
    return examination.finish(validation)


def _is_error(faults: list[Fault]) -> bool:
    return any(KINDS[fault.kind].level == "error" for fault in faults)


def judge(made: Example, options: CheckOptions) -> list[Fault]:
    """All that is wrong with a row by itself."""
    said = made.said()
    if not any(text.strip() for text in said) and not _calls(made.every()):
        return [Fault("empty", "There is no text in it.")]
    faults = _text_faults(said, options)
    if made.form == "text":
        return faults
    wrong = _wrong_order(made)
    if wrong:
        faults.append(wrong)
    elif made.form == "chat":
        faults += _untrained(made)
    elif made.form == "preference" and made.chosen == made.rejected:
        faults.append(Fault("same_pair", "Both answers are the same."))
    return faults


def _text_faults(said: list[str], options: CheckOptions) -> list[Fault]:
    faults = []
    length = sum(map(len, said))
    if length > options.long_characters:
        faults.append(Fault("long", f"It has {length:,} characters."))
    names = {n for text in said if "{{" in text for n in PLACEHOLDER.findall(text)}
    if names:
        faults.append(Fault("placeholder", ", ".join(sorted(names)[:5])))
    if any("\N{REPLACEMENT CHARACTER}" in text for text in said):
        faults.append(Fault("replacement", ""))
    if any(text[:1].isspace() or text[-1:].isspace() for text in said):
        faults.append(Fault("spaces", ""))
    return faults


def _calls(messages: list[dict[str, Any]]) -> bool:
    return any(m.get("tool_calls") for m in messages)


def _wrong_order(made: Example) -> Fault | None:
    """Who may follow whom: system first, then user and assistant in turn, tools behind calls."""
    messages = made.messages
    if made.form != "chat":
        if not any(m["role"] == "user" and m["content"].strip() for m in messages):
            return Fault("no_prompt", "There is no question before the answers.")
        for answer in (made.chosen,) if made.form == "label" else (made.chosen, made.rejected):
            last = answer[-1] if answer else None
            if not last or not (last["content"].strip() or last.get("tool_calls")):
                return Fault("no_answer", "One of the answers is empty.")
            if fault := _order([*messages, *answer]):
                return fault
        return None
    return _order(messages)


def _order(messages: list[dict[str, Any]]) -> Fault | None:
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        allowed = {
            "": ("system", "user"),
            "system": ("user",),
            "user": ("assistant",),
            "assistant": ("user",),
            "call": ("tool", "assistant"),
            "tool": ("assistant", "tool"),
        }[before]
        if role not in allowed:
            behind = f"follows one of the {before}" if before else "stands first"
            return Fault("order", f"Message {number:,}, of the {role}, {behind}.")
        before = "call" if message.get("tool_calls") else role
    last = messages[-1]
    if before not in ("assistant", "call") or not (
        last["content"].strip() or last.get("tool_calls")
    ):
        return Fault("no_answer", "The last message is no answer, or an empty one.")
    if not any(m["role"] == "user" and m["content"].strip() for m in messages):
        return Fault("no_prompt", "There is no question in it.")
    return None


def _untrained(made: Example) -> list[Fault]:
    trained = made.trained()
    if not any(m["content"].strip() or m.get("tool_calls") for m in trained):
        return [Fault("masked", "None of its answers is trained on.")]
    return []
