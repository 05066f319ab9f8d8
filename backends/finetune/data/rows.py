"""One row and where it stands; what can be wrong with one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

MAX_ROW = 16 * 2**20  # bytes (characters, in a JSON document) of one row; longer ones are reported

Level = Literal["error", "remark"]


class Stopped(Exception):
    """Somebody cancelled: raised where rows are read, caught where a result is made of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something is no usable row. `kind` is one of `KINDS`; `text` a sentence on this row."""

    kind: str
    text: str


@dataclass(slots=True)
class Row:
    """One row as the file has it. `number` counts all rows of the dataset, from 1.

    Either `value` (column -> value) or `fault` is there. `line` counts `unit`s in `file`, which is
    "" where the dataset is one file.
    """

    number: int
    value: dict[str, Any] | None
    fault: Fault | None
    file: str
    line: int
    unit: str

    @property
    def place(self) -> str:
        """Where to look for it: "line 12", "entry 3 of a.json"."""
        where = f"{self.unit} {self.line:,}"
        return f"{where} of {self.file}" if self.file else where


# What readers give: the line (or entry) from 1, and a row or why there is none.
Found = tuple[int, "dict[str, Any] | Fault"]
Reader = Iterator[Found]


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong. An "error" cannot be trained on and is left out; a "remark" is
    kept. `text` says of `count` rows what is wrong, `help` what to do."""

    level: Level
    text: str
    help: str


ALIKE = (
    "Drop them: the first of each stays. Left in, a validation split keeps those that are alike on "
    "one side, so that none is learned and validated with."
)
KINDS: dict[str, Kind] = {
    "damaged": Kind(
        "error", "could not be read", "Correct these places in the source, or leave them out."
    ),
    "ragged": Kind(
        "error",
        "have another number of cells than the first line",
        "A cell with the separator or a line break in it needs quotes.",
    ),
    "encoding": Kind(
        "error",
        "have bytes that are not in the file's encoding",
        "Choose another encoding, or save the file as UTF-8.",
    ),
    "characters": Kind(
        "error", "have half a character in them", "Leave them out, or correct them in the source."
    ),
    "too_long": Kind("error", "are longer than 16 MB", "Split them, or leave them out."),
    "columns": Kind(
        "error", "do not have the mapped columns", "Map the columns, or leave these rows out."
    ),
    "shape": Kind("error", "have something else than text where text belongs", "Leave them out."),
    "picture": Kind(
        "error", "have pictures or sound, which a text model does not see", "Leave them out."
    ),
    "tool_call": Kind(
        "error", "have a function call that is not JSON", "Correct it in the source."
    ),
    "role": Kind("error", "have a role that is not known", "Correct it in the source."),
    "order": Kind(
        "error",
        "have roles in the wrong order",
        "Questions and answers must take turns, the system prompt stands first.",
    ),
    "empty": Kind("error", "are empty", "Leave them out."),
    "no_prompt": Kind("error", "have no question", "Leave them out."),
    "no_answer": Kind("error", "have no answer to learn from", "Leave them out."),
    "masked": Kind(
        "error", "have nothing that is trained on", "Switch training on for one of their answers."
    ),
    "same_pair": Kind(
        "error", "have twice the same answer as chosen and as rejected", "Leave them out."
    ),
    "label": Kind("error", "have a label that is not true or false", "Correct it in the source."),
    "dropped": Kind("error", "were left out by a step", "Take the step back."),
    "placeholder": Kind("remark", "have placeholders that are not filled", "Fill them."),
    "replacement": Kind(
        "remark",
        "have the mark of a lost character (\N{REPLACEMENT CHARACTER})",
        "The file was once saved in a wrong encoding. Look for its original.",
    ),
    "long": Kind("remark", "are very long", "They will be cut at the length chosen."),
    "spaces": Kind("remark", "have blanks at the start or end", "Trim them."),
    "duplicate": Kind("remark", "repeat an earlier row", ALIKE),
    "near_duplicate": Kind("remark", "are nearly the same as an earlier row", ALIKE),
    "leak": Kind(
        "remark",
        "are in the validation set, too",
        "The training leaves them out: what was learned would be measured else.",
    ),
}
