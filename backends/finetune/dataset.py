"""The dataset doctor as a backend: it looks at a file in a worker, so that the page stays quick.

A 500 MB file takes a core for a minute; the page's process only reads what is said here. With a
base model the lengths are that model's own tokens, its chat template applied, else an estimate.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from backends.base import Backend, Card, ModelRef, Refused
from backends.card.offload import Weights
from backends.events import ITEM_BYTES, Artifact, Done, Event, Item, Progress
from backends.params import Params, read, setting

if TYPE_CHECKING:
    from backends.finetune.data import Dataset, Example, Lengths
    from backends.finetune.data.checks import Report
    from backends.finetune.data.fixes import Made

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4  # of English, where no model is asked
CLIPPED = 1200  # characters of one text in a preview
ROOM = ITEM_BYTES - 2000  # bytes of JSON, less what stands around them
TOLD = (256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens: lengths whose cut is told
CELLS, CELL, CELL_ROWS = 40, 120, 3  # columns, characters and rows shown as the file has them
QUIET = 0.1  # seconds between two looks whether the work is over


@dataclass(frozen=True)
class DatasetParams(Params):
    """What to do with which file, and how it is read.

    path     absolute; of an upload or in an allowed folder, never one that a browser gave
    allowed  absolute folders that `path` must lie in; () for any
    reading, mapping, steps   what `Dataset.as_dict` gave; empty: as recognised
    validation   another set, as path, allowed, reading, mapping and steps: rows that are in both
             are told of by `examine`; {} for none
    out      absolute path of the cleaned file that `write` makes
    length, answers_only   as the training has them, for `tokens`: `count` rows behind `start`
    """

    path: str = setting("", "File", hidden=True)
    do: Literal["look", "examine", "write", "tokens"] = setting("look", "What to do", hidden=True)
    allowed: tuple[str, ...] = setting((), "Allowed folders", hidden=True)
    reading: dict[str, Any] = setting({}, "How it is read", hidden=True)
    mapping: dict[str, Any] = setting({}, "What its columns mean", hidden=True)
    steps: tuple[dict[str, Any], ...] = setting((), "Steps that repair it", hidden=True)
    validation: dict[str, Any] = setting({}, "The set to validate with", hidden=True)
    start: int = setting(0, "Rows to pass over", min=0, hidden=True)
    count: int = setting(20, "Rows to show", min=1, max=200, hidden=True)
    exact: bool = setting(False, "Count every token", hidden=True)
    out: str = setting("", "Cleaned file", hidden=True)
    length: int = setting(1024, "Length of a row", min=1, unit="tokens", hidden=True)
    answers_only: bool = setting(True, "Learn the answers only", hidden=True)


@dataclass(frozen=True)
class DatasetOptions(Params):
    """There is nothing to choose."""


class DatasetDoctor(Backend):
    """`run` yields Items: "dataset" (what it is, some rows), "report" (all rows), "lengths"; for
    `do="tokens"` one "tokens" for each row instead (`backends.finetune.tokens`)."""

    card = Card(
        name="dataset",
        task="finetune",
        params=DatasetParams,
        load_options=DatasetOptions,
        label="Dataset doctor",
        memory_base=300 * 2**20,
        weights=lambda options, size, device: Weights(0, 0),  # of a base, the tokenizer alone
        measured=False,
    )

    def load(self, model: ModelRef, options: DatasetOptions) -> None:
        """`none:`, or the base model whose tokenizer counts."""
        self.tokenizer: Any = None
        if model.kind == "none":
            return
        from transformers import AutoTokenizer

        from backends.models import catalogue, library

        ref = catalogue.training_base(model)
        folder = library.prepare(ref, self.report, self.cancelled)
        self.tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        row = library.row_of(ref)
        self.template = catalogue.training_template(row) if row else ""
        self.system = row.system if row else ""

    def run(self, params: DatasetParams) -> Iterator[Event]:
        dataset = opened(params)
        if params.do == "tokens":
            yield from self._tokens(dataset, params)
            yield Done(cancelled=self.cancelled())
            return
        yield Item("dataset", about(dataset, params))
        if params.do == "examine" and not dataset.mapping.missing():  # else "dataset" says it
            yield from self._examine(dataset, params)
        elif params.do == "write":
            yield from self._write(dataset, Path(params.out))
        yield Done(cancelled=self.cancelled())

    def unload(self) -> None:
        self.tokenizer = None

    def _examine(self, dataset: Dataset, params: DatasetParams) -> Iterator[Event]:
        other = None
        if params.validation:
            other = yield from self._beside(read(DatasetParams, params.validation))
        report = yield from self._report(dataset, "Checking every row", other)
        yield Item("report", fitting(report.as_dict()))
        count = self.count
        yield Item("lengths", lengths_as_dict(dataset.lengths(report, count)))
        if params.exact and report.complete and self.tokenizer:
            for lengths in dataset.exact_lengths(count, self.cancelled, report.kept):
                done = len(lengths.tokens)
                yield Progress(done, report.kept, "Counting tokens")
                yield Item("lengths", lengths_as_dict(lengths))

    def _beside(self, params: DatasetParams) -> Generator[Event, None, Report]:
        """The report on the set to validate with; what it is refused for names it."""
        try:
            note = "Reading the rows to validate with"
            return (yield from self._report(opened(params), note))
        except Refused as error:
            from backends.finetune.sft_rows import of_the_other

            raise of_the_other(error, params.path) from error

    def _report(
        self, dataset: Dataset, note: str, validation: Report | None = None
    ) -> Generator[Event, None, Report]:
        return watched(
            lambda tell, stopped: dataset.examine(
                lambda: stopped() or self.cancelled(), said(tell, note), validation
            )
        )

    def _tokens(self, dataset: Dataset, params: DatasetParams) -> Iterator[Event]:
        from backends.finetune.sft_rows import Encoder
        from backends.finetune.tokens import row_tokens

        if self.tokenizer is None:
            raise Refused("No base model is chosen.", "Choose the one that shall be trained.")
        encoder = Encoder(self.tokenizer, self.template, self.system, params.answers_only)
        for made in dataset.preview(params.count, params.start):
            if self.cancelled():
                return
            yield Item("tokens", fitting(row_tokens(made, encoder, params.length)))

    def _write(self, dataset: Dataset, out: Path) -> Iterator[Event]:
        written = yield from watched(
            lambda tell, stopped: dataset.write(
                out, lambda: stopped() or self.cancelled(), said(tell, "Writing the cleaned set")
            )
        )
        if written:
            yield Item("written", fitting(written.manifest))
            yield Artifact(str(written.path), "dataset")

    def count(self, examples: Sequence[Example]) -> list[int]:
        """Tokens of each, as `lengths.Count` wants it."""
        if self.tokenizer is None:
            return [sum(map(len, e.said())) // CHARACTERS_PER_TOKEN + 1 for e in examples]
        tokenizer = self.tokenizer
        plain = examples[0].form == "text" or not tokenizer.chat_template
        if plain:
            texts = ["\n".join(e.said()) for e in examples]
        else:
            texts = [
                tokenizer.apply_chat_template(self._turns(e), tools=e.tools or None, tokenize=False)
                for e in examples
            ]
        if tokenizer.is_fast:  # without offsets, which nobody asks for: a third of the time less
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=plain)
            return [len(one) for one in encoded]
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=plain)["input_ids"]]

    def _turns(self, example: Example) -> list[dict[str, Any]]:
        """With the system prompt that the training adds, too."""
        turns = example.every()
        if self.system and turns[0]["role"] != "system":
            return [{"role": "system", "content": self.system}, *turns]
        return turns


def opened(params: DatasetParams) -> Dataset:
    """As the params say; raises Refused, and ValueError with a sentence."""
    from backends.finetune.data import Mapping, ReadOptions, open_dataset, step_of

    reading = read(ReadOptions, params.reading)
    dataset = open_dataset(Path(params.path), [Path(p) for p in params.allowed], reading)
    if params.mapping:
        mapping = read(Mapping, params.mapping)
        unknown = [c for c in mapping.columns().values() if c not in dataset.recognised.columns]
        if unknown:
            raise Refused(
                f"{dataset.name} has no column {unknown[0]!r}.", "Choose one that it has."
            )
        dataset = dataset.map(mapping)
    return dataset.fix(*(step_of(step) for step in params.steps)) if params.steps else dataset


def about(dataset: Dataset, params: DatasetParams) -> dict[str, Any]:
    """What the page shows at once, with as many of the rows as an event carries."""
    from backends.params import to_dict

    known = dataset.recognised
    title, evidence = known.title, known.evidence
    if dataset.mapping != known.mapping:
        title, evidence = "Columns, as mapped", as_mapped(dataset)
    told: dict[str, Any] = {
        "name": dataset.name,
        "bytes": dataset.source.size,
        "title": title,
        "evidence": evidence,
        "missing": dataset.mapping.missing(),
        "columns": [str(c)[:100] for c in known.columns[:200]],
        "cells": cells(dataset),
        "read": as_read(dataset),
        "mapping": to_dict(dataset.mapping),
        "notes": dataset.notes,
        "more": True,
        "rows": [],
    }
    size = len(json.dumps(told))
    made = dataset.preview(params.count, params.start)
    for row, example in made:
        shown = row_as_dict((row, example))
        size += len(json.dumps(shown)) + 2
        if size > ROOM:
            break
        told["rows"].append(shown)
    told["more"] = len(made) == params.count or len(told["rows"]) < len(made)
    return told


def as_mapped(dataset: Dataset) -> str:
    """ "Question: q. Answer: a." """
    labels = {f.name: f.metadata["label"] for f in fields(dataset.mapping)}
    return " ".join(f"{labels[name]}: {c}." for name, c in dataset.mapping.columns().items())


def cells(dataset: Dataset) -> list[dict[str, str]]:
    """The first rows as the file has them, by column, to tell what each column is."""
    found = (row.value for row in islice(dataset.rows(), 100) if row.value is not None)
    names = list(dataset.recognised.columns[:CELLS])
    return [
        {str(n)[:100]: _plain(value[n])[:CELL] for n in names if n in value}
        for value in islice(found, CELL_ROWS)
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def as_read(dataset: Dataset) -> dict[str, Any]:
    """How the first file of it was read: the guesses that `reading` may overrule."""
    layout = next(iter(dataset.layouts.values()))
    return {
        "kind": layout.kind,
        "encoding": layout.encoding.title,
        "certain": layout.encoding.certain,
        "separator": layout.separator,
    }


def row_as_dict(made: Made) -> dict[str, Any]:
    """A row as it is shown: its number and place, and its fault or what it says."""
    from backends.finetune.data.rows import Fault

    row, example = made
    shown: dict[str, Any] = {"number": row.number, "place": row.place}
    if isinstance(example, Fault):
        return {**shown, "fault": example.text, "kind": example.kind}
    if example.form == "text":
        return {**shown, "text": example.text[:CLIPPED], "cut": len(example.text) > CLIPPED}
    trained = {id(m) for m in example.trained()}
    turns = [
        {"role": m["role"], "text": str(m["content"])[:CLIPPED], "trained": id(m) in trained}
        for m in example.every()[:50]
    ]
    return {**shown, "turns": turns, "label": example.label}


def lengths_as_dict(lengths: Lengths) -> dict[str, Any]:
    """In tokens; `cut` says for some lengths how many rows and tokens they would lose."""
    return {
        "exact": lengths.exact,
        "rows": lengths.rows,
        "total": lengths.total,
        "longest": lengths.longest,
        "median": lengths.percentile(0.5),
        "p95": lengths.percentile(0.95),
        "histogram": lengths.histogram(),
        "cut": {str(length): lengths.cut(length) for length in TOLD},
    }


def fitting(data: dict[str, Any]) -> dict[str, Any]:
    """The same with shorter lists where it is too large for an event; counts stay as they are."""
    keep = 100
    while len(json.dumps(data)) > ROOM and keep:
        keep //= 2
        data = _shorter(data, keep)
    return data


def _shorter(value: Any, keep: int) -> Any:
    if isinstance(value, dict):
        kept = list(value.items())[: max(keep, 20)]
        return {k: _shorter(v, keep) for k, v in kept}
    if isinstance(value, (list, tuple)):
        return [_shorter(v, keep) for v in list(value)[: max(keep, 20)]]
    return value[:300] if isinstance(value, str) else value


Tell = Callable[[Event], None]


def said(tell: Tell, note: str) -> Callable[[float, int], None]:
    return lambda share, rows: tell(Progress(share, 1.0, f"{note} · {rows:,}"))


def watched(work: Callable[[Tell, Callable[[], bool]], T]) -> Generator[Event, None, T]:
    """Do `work` in a thread and yield what it tells; its result is the generator's. What it raises
    is raised here. Progress that comes faster than it is taken is left out. `work` is asked to
    stop, and waited for, when the generator is closed."""
    told: queue.Queue[Event] = queue.Queue(maxsize=4)
    stop = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def tell(event: Event) -> None:
        with contextlib.suppress(queue.Full):  # the next one says more
            told.put_nowait(event)

    def body() -> None:
        try:
            results.append(work(tell, stop.is_set))
        except BaseException as error:  # it belongs to who iterates
            errors.append(error)

    thread = threading.Thread(target=body, name="dataset", daemon=True)
    thread.start()
    try:
        while thread.is_alive() or not told.empty():
            with contextlib.suppress(queue.Empty):
                yield told.get(timeout=QUIET)
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
