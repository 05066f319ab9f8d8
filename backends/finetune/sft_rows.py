"""A dataset as token rows: what TRL's SFTTrainer takes as already prepared.

The answers are marked by a chat template with `{% generation %}`: the catalogue's, the model's own,
or TRL's for its family. `labels` is -100 where nothing is learned.
"""

from __future__ import annotations

import json
import random
import re
import time
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Refused
from backends.events import Progress
from backends.finetune.data import Example, Mapping, ReadOptions, open_dataset, step_of
from backends.finetune.data.doctor import Dataset
from backends.finetune.data.fingerprints import Fingerprints
from backends.finetune.data.source import places_of
from backends.params import read
from backends.runtime.job_spec import digest

IGNORED = -100
TELL_SECONDS = 0.5  # between two words on how far the reading is
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def opened(path: str, data: dict[str, Any]) -> Dataset:
    """The dataset, read and repaired as `data` says. Raises Refused, or ValueError in sentences."""
    options = read(ReadOptions, data.get("reading") or {})
    dataset = open_dataset(Path(path), places_of(Path(path)), options)
    if data.get("mapping"):
        dataset = dataset.map(read(Mapping, data["mapping"]))
    steps = [step_of(step) for step in data.get("steps") or []]
    return dataset.fix(*steps) if steps else dataset


def validation_set(said: dict[str, Any]) -> Dataset | None:
    """The set to validate with, as `SftParams.validation_set` has it. Raises Refused where it is
    not what it was when the job was made."""
    if not said:
        return None
    path = str(said.get("path", ""))
    if said.get("sha256") not in (None, "", digest(path)):
        raise Refused(
            f"The set to validate with, {path}, is gone or has changed.",
            "Put the old file back and resume, or make a new job.",
        )
    return opened(path, said)


def of_the_other(error: Refused, path: str) -> Refused:
    """The same, of the set to validate with: else it would seem to be the one that is learned."""
    message = f"The set to validate with, {Path(path).name}: {error.message}"
    return Refused(message, error.hint, error.detail)


@dataclass
class Rows:
    """Token rows, 5 bytes a token, and what had to be left out or cut.

    ids: of all rows, one behind the other. learned: a 1 for each that the loss is taken of.
    ends: where each row ends. prints: for `split`, where there is something to validate with.
    aside: the rows to validate with, where they are a set of their own.
    """

    ids: array[int] = field(default_factory=lambda: array("i"))
    learned: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    prints: Fingerprints | None = None
    aside: Rows | None = None
    cut: int = 0
    untrained: int = 0

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, ids: list[int], labels: list[int], length: int) -> bool:
        """False where nothing of it can be learned."""
        self.cut += len(ids) > length
        ids, labels = ids[:length], labels[:length]
        if len(ids) < 2 or all(label == IGNORED for label in labels[1:]):
            self.untrained += 1
            return False
        self.ids.extend(ids)
        self.learned.extend(label != IGNORED for label in labels)
        self.ends.append(len(self.ids))
        return True

    def split(self, share: float, seed: int) -> tuple[Any, Any]:
        """Two `datasets.Dataset` with input_ids and labels: to learn, and to validate with.

        `share` (0 to 1) of the rows, drawn by the seed, are set aside. Rows that repeat each other,
        or nearly do, stay on one side: what was learned would be measured else. Where there is a
        set of its own to validate with, it is that, and the share is not asked. Raises Refused.
        """
        if self.aside is not None:
            everything = np.ones(len(self.aside), dtype=bool)
            return self._dataset(~self._leaks(self.aside)), self.aside._dataset(everything)
        order = list(range(len(self)))
        random.Random(seed).shuffle(order)
        held = round(len(order) * share)
        aside = np.zeros(len(order), dtype=bool)
        aside[_whole_groups(order, held, self._groups())] = True
        if held >= len(order) or (share and not aside.any()):
            raise Refused(
                f"{len(order):,} rows are too few, or too alike, to set a share of them aside.",
                "Choose another validation share, or 0.",
            )
        return self._dataset(~aside), self._dataset(aside)

    def _leaks(self, aside: Rows) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A mark for each row that is, nearly or wholly, in the set to validate with, too."""
        found = np.zeros(len(self), dtype=bool)
        if self.prints is not None and aside.prints is not None:
            found[self.prints.shared(aside.prints).rows] = True
        if found.all():
            raise Refused(
                "Every row is in the set to validate with, too.",
                "Choose another set to validate with, or a share of the rows.",
            )
        return found

    def _groups(self) -> dict[int, int]:
        """Row -> the first of those like it, of rows that are like an earlier one."""
        first: dict[int, int] = {}
        if self.prints is not None:
            pairs = [*self.prints.duplicates().items(), *self.prints.near_duplicates().items()]
            for row, earlier in sorted(pairs):
                first.setdefault(row, first.get(earlier, earlier))
        return first

    def _dataset(self, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
        import datasets
        import pyarrow  # type: ignore[import-untyped]

        datasets.disable_progress_bars()
        ends = np.frombuffer(self.ends, dtype=np.int64)
        lengths = np.diff(ends, prepend=0)
        ids = np.frombuffer(self.ids, dtype=np.int32)
        learned = np.frombuffer(self.learned, dtype=np.uint8)
        if not wanted.all():
            tokens = np.repeat(wanted, lengths)
            ids, learned, lengths = ids[tokens], learned[tokens], lengths[wanted]
        offsets = np.r_[0, np.cumsum(lengths)]
        large = offsets[-1] > np.iinfo(np.int32).max
        kind = pyarrow.LargeListArray if large else pyarrow.ListArray
        places = pyarrow.array(offsets, pyarrow.int64() if large else pyarrow.int32())
        labels = np.where(learned == 1, ids, np.int32(IGNORED))
        columns = {
            name: kind.from_arrays(places, pyarrow.array(values, pyarrow.int32()))
            for name, values in (("input_ids", ids), ("labels", labels))
        }
        return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.table(columns)))

    def notices(self, length: int) -> list[str]:
        told = []
        if self.cut:
            told.append(f"{self.cut:,} rows are longer than {length:,} tokens and were cut there.")
        if self.untrained:
            told.append(f"{self.untrained:,} rows have nothing to learn in that length: left out.")
        if self.aside is not None and (leaks := int(self._leaks(self.aside).sum())):
            told.append(f"{leaks:,} rows are in the validation set, too: not learned.")
        return told


class Encoder:
    """Examples to tokens, by one tokenizer and the template that marks the answers."""

    def __init__(self, tokenizer: Any, template: str, system: str, answers_only: bool) -> None:
        self.tokenizer, self.system, self.answers_only = tokenizer, system, answers_only
        self.template = template or _own_template(tokenizer, answers_only)

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids and labels of one row. Raises Refused where the form cannot be learned so."""
        if example.form == "text":
            ids = list(self.tokenizer(example.text)["input_ids"])
            end = self.tokenizer.eos_token_id
            ids += [] if end is None or ids[-1:] == [end] else [end]
            return ids, list(ids)
        if example.form != "chat":
            raise Refused(
                "This dataset has better and worse answers, not answers to learn.",
                "Choose a method for preferences, or map its columns to question and answer.",
            )
        if not self.template:
            raise Refused(
                "This model has no chat template, so conversations cannot be shown to it.",
                "Choose an instruct model, or a dataset of plain text.",
            )
        from jinja2 import TemplateError

        turns = self.turns(example.messages)
        try:
            found = self.tokenizer.apply_chat_template(
                turns, tools=example.tools or None, chat_template=self.template, tokenize=True,
                return_dict=True, return_assistant_tokens_mask=self.answers_only,
            )  # fmt: skip
        except TemplateError as error:  # of a template that takes no system turn, for one
            raise ValueError(str(error)) from error
        ids = list(found["input_ids"])
        if not self.answers_only:
            return ids, list(ids)
        mask = learned(list(found["assistant_masks"]), example.messages)
        return ids, [i if bit else IGNORED for i, bit in zip(ids, mask, strict=True)]

    def turns(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As templates take them, with the system prompt that the page's chat would send."""
        turns = [{k: v for k, v in m.items() if k != "train"} for m in messages]
        if self.system and turns and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system})
        return turns

    def prompt(self, text: str) -> list[int]:
        """A question as the model reads it before it answers."""
        if not self.tokenizer.chat_template and not self.template:
            return list(self.tokenizer(text)["input_ids"])
        found = self.tokenizer.apply_chat_template(
            self.turns([{"role": "user", "content": text}]), add_generation_prompt=True,
            chat_template=self.template or None, tokenize=True, return_dict=True,
        )  # fmt: skip
        return list(found["input_ids"])


def learned(mask: list[int], messages: list[dict[str, Any]]) -> list[int]:
    """`mask` without the answers that a row marks as not to be learned.

    The n-th run of ones is the n-th answer. Messages: dicts with role, and train.
    """
    wanted = [m.get("train", True) for m in messages if m["role"] == "assistant"]
    if all(wanted):
        return mask
    kept, number = list(mask), -1
    for i, bit in enumerate(mask):
        if bit:
            number += i == 0 or not mask[i - 1]
            kept[i] = int(number < len(wanted) and bool(wanted[number]))
    return kept


def _own_template(tokenizer: Any, answers_only: bool) -> str:
    template = tokenizer.chat_template
    template = template.get("default", "") if isinstance(template, dict) else template or ""
    if not template or not answers_only or GENERATION.search(template):
        return str(template)
    from trl.chat_template_utils import get_training_chat_template

    try:
        return str(get_training_chat_template(tokenizer))
    except ValueError as error:
        raise Refused(
            "This model's chat template does not tell answers from questions.",
            'Turn off "Learn the answers only", or use a model of the catalogue.',
            str(error),
        ) from error


def _whole_groups(order: list[int], held: int, first: dict[int, int]) -> list[int]:
    """`held` rows in their order, or a few less: a group goes whole, or not at all."""
    groups: dict[int, list[int]] = {}
    for row, leader in first.items():
        groups.setdefault(leader, [leader]).append(row)
    taken: list[int] = []
    seen: set[int] = set()
    for row in order:
        leader = first.get(row, row)
        group = groups.get(leader, [row])
        if leader not in seen and len(taken) + len(group) <= held:
            taken += group
        seen.add(leader)
    return taken


def collect(
    dataset: Dataset,
    encoder: Encoder,
    length: int,
    cancelled: Callable[[], bool],
    compare: bool = False,
) -> Generator[Progress, None, Rows]:
    """All sound rows of the dataset, as the generator's result; with `compare` their fingerprints.

    Raises Refused where there is none, and Stopped.
    """
    rows = Rows(prints=Fingerprints() if compare else None)
    share, told = [0.0], time.monotonic()

    def heard(used: float, number: int) -> None:
        share[0] = used

    for number, example in dataset.numbered(cancelled, heard):
        try:
            ids, labels = encoder.encode(example)
        except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise Refused(
                f"Row {number:,} cannot be written with this model's chat template.",
                "Look at that row, or choose another base.",
                str(error),
            ) from error
        if rows.add(ids, labels, length) and rows.prints is not None:
            rows.prints.add(len(rows) - 1, example)
        if (now := time.monotonic()) - told >= TELL_SECONDS:
            told = now
            yield Progress(share[0], 1.0, f"reading the dataset · {number:,} rows")
    if not len(rows):
        raise Refused(
            f"{dataset.name} has no row that can be learned.",
            "Look at what the dataset's check says, and fill or mend its rows.",
        )
    return rows
