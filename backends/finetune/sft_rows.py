"""A dataset as token rows: what TRL's SFTTrainer takes as already prepared.

The answers are marked by a chat template with `{% generation %}`: the catalogue's, the model's own,
or TRL's for its family. `labels` is -100 where nothing is learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.finetune.data import Example, Mapping, ReadOptions, open_dataset, step_of
from backends.finetune.data.doctor import Dataset
from backends.params import read

IGNORED = -100
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def opened(path: str, data: dict[str, Any]) -> Dataset:
    """The dataset, read and repaired as `data` says. Raises Refused, or ValueError in sentences."""
    options = read(ReadOptions, data.get("reading") or {})
    dataset = open_dataset(Path(path), (), options)
    if data.get("mapping"):
        dataset = dataset.map(read(Mapping, data["mapping"]))
    steps = [step_of(step) for step in data.get("steps") or []]
    return dataset.fix(*steps) if steps else dataset


@dataclass
class Rows:
    """Token rows, and what had to be left out or cut."""

    input_ids: list[list[int]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    cut: int = 0
    untrained: int = 0

    def add(self, ids: list[int], labels: list[int], length: int) -> None:
        self.cut += len(ids) > length
        ids, labels = ids[:length], labels[:length]
        if len(ids) < 2 or all(label == IGNORED for label in labels[1:]):
            self.untrained += 1
            return
        self.input_ids.append(ids)
        self.labels.append(labels)

    def notices(self, length: int) -> list[str]:
        told = []
        if self.cut:
            told.append(f"{self.cut:,} rows are longer than {length:,} tokens and were cut there.")
        if self.untrained:
            told.append(f"{self.untrained:,} rows have nothing to learn in that length: left out.")
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
        turns = self.turns(example.messages)
        found = self.tokenizer.apply_chat_template(
            turns, tools=example.tools or None, chat_template=self.template, tokenize=True,
            return_dict=True, return_assistant_tokens_mask=self.answers_only,
        )  # fmt: skip
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


def collect(dataset: Dataset, encoder: Encoder, length: int, cancelled: Callable[[], bool]) -> Rows:
    """All sound rows of the dataset. Raises Refused where there is none."""
    rows = Rows()
    for number, example in dataset.numbered(cancelled):
        try:
            ids, labels = encoder.encode(example)
        except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise Refused(
                f"Row {number:,} cannot be written with this model's chat template.",
                "Look at that row, or choose another base.",
                str(error),
            ) from error
        rows.add(ids, labels, length)
    if not rows.input_ids:
        raise Refused(
            f"{dataset.name} has no row that can be learned.",
            "Look at what the dataset's check says, and fill or mend its rows.",
        )
    return rows
