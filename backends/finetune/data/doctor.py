"""A dataset from the file to its cleaned copy: the one object that the page and the jobs hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.finetune.data import checks, fixes, lengths, reading, recognise, source
from backends.finetune.data.checks import CheckOptions, Report
from backends.finetune.data.fixes import Made, Step, Written
from backends.finetune.data.forms import Example, Mapping
from backends.finetune.data.lengths import Count, Lengths
from backends.finetune.data.reading import Layout, ReadOptions
from backends.finetune.data.recognise import Recognised
from backends.finetune.data.rows import KINDS, Fault, Row, Stopped
from backends.params import to_dict

Cancelled = Callable[[], bool]
Progress = Callable[[float, int], None]  # share of the bytes (0 to 1), rows so far
ASKED_BYTES = 32 * 2**20  # of long rows, after which no more of them are asked what they are


LOOKED_AT = 20_000  # rows, after which no sound one is waited for any more


def never() -> bool:
    return False


@dataclass(frozen=True)
class Dataset:
    """A file, how it is read, what its columns mean, and the steps that repair it.

    Nothing of its rows is in memory. Each change gives a new Dataset; `undo` gives the one before.
    """

    source: source.Source
    layouts: dict[str, Layout]
    recognised: Recognised
    mapping: Mapping
    reading: ReadOptions = ReadOptions()
    checking: CheckOptions = CheckOptions()
    steps: tuple[Step, ...] = ()
    before: Dataset | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.source.path.name

    @property
    def notes(self) -> list[str]:
        """Sentences on how it was read: kind, encoding, what was left out."""
        titles: dict[str, int] = {}
        for layout in self.layouts.values():
            titles[layout.title] = titles.get(layout.title, 0) + 1
        told = [f"{title}." if not self.source.several else f"{count:,} x {title}."
                for title, count in titles.items()]  # fmt: skip
        if self.source.left_out:
            names = ", ".join(self.source.left_out[:5])
            told.append(f"Left out, as no dataset: {len(self.source.left_out):,} files ({names}).")
        if self.recognised.unused and self.mapping == self.recognised.mapping:
            told.append(f"Columns that are not used: {', '.join(self.recognised.unused[:12])}.")
        return told

    def changed(self) -> bool:
        """Whether the source is no longer what it was when it was opened."""
        try:
            return self.source.again().stamp != self.source.stamp
        except Refused:
            return True

    # Looking

    def rows(self, progress: Progress | None = None) -> Iterator[Row]:
        """All rows as the file has them. Raises Refused."""
        seen, number = None, 0
        if progress is not None:

            def seen(used: int) -> None:
                progress(min(1.0, used / max(self.source.size, 1)), number)

        for row in reading.rows(self.source, self.layouts, self.reading, seen):
            number = row.number
            yield row

    def normal(
        self, progress: Progress | None = None, cancelled: Cancelled = never
    ) -> Iterator[Made]:
        """All rows in normal form, or why they have none, before any step. Raises Stopped."""
        for row in self.rows(progress):
            if cancelled():
                raise Stopped
            yield row, checks.normal(row, self.mapping)

    def made(
        self, progress: Progress | None = None, cancelled: Cancelled = never
    ) -> Iterator[Made]:
        """All rows after the steps; those left out as Faults. As many as `rows` gives.

        What the checks find is not left out yet. Where a step compares rows with each other, all
        are read once more before, and `progress` begins again. Raises Stopped.
        """
        return fixes.repaired(lambda: self.normal(progress, cancelled), self.steps, self.checking)

    def examples(self) -> Iterator[Example]:
        """What is left to train on."""
        return (example for _, example in self.numbered())

    def numbered(
        self, cancelled: Cancelled = never, progress: Progress | None = None
    ) -> Iterator[tuple[int, Example]]:
        """The same, each with the number of its row. Raises Stopped."""
        for row, made in fixes.sound(self.made(progress, cancelled), self.checking):
            if not isinstance(made, Fault):
                yield row.number, made

    def preview(self, count: int = 20, start: int = 0) -> list[Made]:
        """`count` rows behind the first `start`, with what the mapping makes of them.

        Steps that change texts are applied; those that leave rows out are not.
        """
        texts = [s for s in self.steps if isinstance(s, (fixes.Fill, fixes.Trim))]
        rows = fixes.repaired(self.normal, texts, self.checking)
        return list(islice(rows, start, start + count))

    def examine(
        self,
        cancelled: Cancelled = never,
        progress: Progress | None = None,
        validation: Report | None = None,
    ) -> Report:
        """Every row, after the steps, is checked; rows == kept + left_out.

        Rows that steps left out count as reported, by the step's reason. Cancelled, the report is
        of the rows so far and not `complete`. `validation`: the report on the set to validate with.
        """
        self._check_mapping()
        prints = validation.prints if validation else None
        return checks.examine(self.made(progress, cancelled), self.checking, prints)

    def lengths(self, report: Report, count: Count) -> Lengths:
        """An estimate, at once."""
        return lengths.estimate(report, count)

    def exact_lengths(
        self, count: Count, cancelled: Cancelled = never, total: int = 0
    ) -> Iterator[Lengths]:
        """Grows until it is exact. `total`: rows kept, as the report has them."""
        return lengths.exact(self.numbered(cancelled), count, total)

    # Changing

    def map(self, mapping: Mapping) -> Dataset:
        return dataclasses.replace(self, mapping=mapping, before=self)

    def fix(self, *steps: Step) -> Dataset:
        return dataclasses.replace(self, steps=(*self.steps, *steps), before=self)

    def undo(self) -> Dataset:
        """As it was before the last change; itself where there was none."""
        return self.before or self

    def read_as(self, options: ReadOptions) -> Dataset:
        """The same file, read in another way; what was mapped and repaired stays where it can."""
        again = open_dataset(self.source.path, self.source.allowed, options)
        known = set(again.recognised.columns)
        kept = set(self.mapping.columns().values()) <= known
        return dataclasses.replace(
            again,
            mapping=self.mapping if kept and self.mapping.columns() else again.mapping,
            checking=self.checking, steps=self.steps, before=self,
        )  # fmt: skip

    def write(
        self, path: Path, cancelled: Cancelled = never, progress: Progress | None = None
    ) -> Written | None:
        """The cleaned set as a new file, with a manifest beside it. None where it is cancelled.

        Raises Refused.
        """
        self._check_mapping()
        try:
            hashed = self.sha256(cancelled)
        except Stopped:
            return None
        about = {
            "source": {
                "name": self.name,
                "bytes": self.source.size,
                "sha256": hashed,
                "read": {name: layout.title for name, layout in list(self.layouts.items())[:1000]},
            },
            "reading": to_dict(self.reading),
            "mapping": to_dict(self.mapping),
            "columns_left_out": [
                c for c in self.recognised.columns if c not in self.mapping.columns().values()
            ],
            "steps": [fixes.step_as_dict(step) for step in self.steps],
        }
        rows = fixes.sound(self.made(progress, cancelled), self.checking)
        return fixes.write(path, rows, about, lambda: not self.changed())

    def sha256(self, cancelled: Cancelled = never) -> str:
        """Of the source: what a job keeps to tell a dataset that was changed under it.

        Raises Refused, and Stopped.
        """
        try:
            return source.sha256_of(self.source, cancelled)
        except OSError as error:
            raise Refused(f"{self.name} cannot be read any more.", "Open it again.") from error

    def as_dict(self) -> dict[str, Any]:
        """How this set is read and repaired: what a job's spec keeps beside path and hash."""
        return {
            "reading": to_dict(self.reading),
            "mapping": to_dict(self.mapping),
            "steps": [fixes.step_as_dict(step) for step in self.steps],
        }

    def _check_mapping(self) -> None:
        if missing := self.mapping.missing():
            raise Refused("It is not known what the columns of this dataset mean.", missing)


def open_dataset(
    path: Path, allowed: Sequence[Path] = (), options: ReadOptions | None = None
) -> Dataset:
    """A file, a folder of files, or a ZIP of them, recognised by its first rows.

    `allowed`: folders that the path must lie in, links followed; () for any. Raises Refused.
    """
    options = options or ReadOptions()
    found = source.find(Path(path), allowed)
    layouts = {part.name: reading.layout_of(part, options) for part in found.parts}
    asked, size = [], 0
    fault: Row | None = None
    for row in reading.rows(found, layouts, options):
        fault = fault or (row if row.fault else None)
        if row.value is not None:
            asked.append(row.value)
            size += sum(len(v) if isinstance(v, (str, list)) else 8 for v in row.value.values())
        if len(asked) >= recognise.VOTERS or size > ASKED_BYTES or row.number > LOOKED_AT:
            break
    if not asked:
        if fault is None or fault.fault is None:
            raise Refused(f"{found.path.name} has no rows in it.", "Choose a file with rows in it.")
        place = fault.place[:1].upper() + fault.place[1:]
        raise Refused(
            f"No row of {found.path.name} can be read. {place}: {fault.fault.text}",
            KINDS[fault.fault.kind].help,
        )
    recognised = recognise.recognise(asked)
    return Dataset(found, layouts, recognised, recognised.mapping, options)
