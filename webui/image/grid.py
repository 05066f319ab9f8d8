"""An X/Y/Z grid: up to three settings, each with its values, and every combination of them.

Values are typed as AUTOMATIC1111's `xyz_grid.py` takes them, separated by commas:

    1, 2, 5        these
    1-5            1 to 5, both included (whole numbers only)
    10-50 (+10)    10, 20, 30, 40, 50; with (-10) downwards
    0.5-1 [3]      three of them, evenly spaced: 0.5, 0.75, 1
    "a, b", c      text; quotes keep a comma in it

Pure: nothing here touches a disk or a model.
"""

from __future__ import annotations

import csv
import itertools
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from backends.base import Refused
from backends.image.params import ImageParams
from backends.params import read

MOST_CELLS = 500
MOST_VALUES = 100  # of one axis
MODEL, REPLACE, WEIGHT = "model", "prompt_replace", "adapter_weight"
OWN = {MODEL: "Model", REPLACE: "Words of the prompt", WEIGHT: "Weight of the adapters"}
SHOWN = frozenset({"scheduler", "strength", "upscaler"})  # hidden in the form, good for a grid
NUMBER = r"([+-]?\d+(?:\.\d*)?)"
STEPPED = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}(?:\s*\(\s*([+-]?\d+(?:\.\d*)?)\s*\))?")
COUNTED = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}\s*\[\s*(\d+)\s*\]")
# What a change of it costs, from none to loading another model.
COST = {MODEL: 3, "upscaler": 2, "width": 1, "height": 1, "images": 1, "enlarge": 1}


@dataclass(frozen=True)
class Axis:
    """`field` is a name of `axes()`. `titles` stand on the sheet; without them the values do."""

    field: str
    values: tuple[Any, ...]
    titles: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """As they stand on the sheet: "Steps: 20"; the words themselves where words change."""
        shown = self.titles or tuple(_shown(value) for value in self.values)
        if self.field in (MODEL, REPLACE):
            return shown
        return tuple(f"{axes()[self.field]}: {text}" for text in shown)


@dataclass(frozen=True)
class Cell:
    """One run: where it stands (x, y, z, from 0), and what differs from the rest."""

    place: tuple[int, int, int]
    change: dict[str, Any]
    model: str = ""  # "": the one that was chosen


@dataclass(frozen=True)
class Grid:
    """Columns, rows and sheets; an axis without values does not change anything."""

    x: Axis | None = None
    y: Axis | None = None
    z: Axis | None = None

    @property
    def axes(self) -> tuple[Axis | None, Axis | None, Axis | None]:
        return self.x, self.y, self.z

    @property
    def size(self) -> tuple[int, int, int]:
        """Columns, rows, sheets; at least 1 each."""
        x, y, z = (len(axis.values) if axis else 1 for axis in self.axes)
        return x, y, z

    def labels(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        x, y, z = (axis.labels if axis else ("",) for axis in self.axes)
        return x, y, z

    def cells(self, params: Mapping[str, Any]) -> list[Cell]:
        """Every combination, in the order that changes the costly settings least often.

        Raises Refused where one cannot be drawn: too many, a value that is out of bounds, the same
        setting twice.
        """
        used = [axis for axis in self.axes if axis]
        if len({axis.field for axis in used}) < len(used):
            raise Refused("Two axes change the same setting.", "Choose different ones.")
        count = self.size[0] * self.size[1] * self.size[2]
        if count > MOST_CELLS:
            raise Refused(
                f"This grid has {count:,} pictures.", f"Take fewer values: {MOST_CELLS} are most."
            )
        cells = [
            self._cell((x, y, z), params)
            for x, y, z in itertools.product(*(range(length) for length in self.size))
        ]
        costs = [COST.get(axis.field, 0) if axis else -1 for axis in self.axes]
        outer = sorted(range(3), key=lambda axis: (-costs[axis], -axis))  # else row by row
        return sorted(cells, key=lambda cell: [cell.place[axis] for axis in outer])

    def _cell(self, place: tuple[int, int, int], params: Mapping[str, Any]) -> Cell:
        change: dict[str, Any] = {}
        model = ""
        for axis, at in zip(self.axes, place, strict=True):
            if axis and axis.field == MODEL:
                model = str(axis.values[at])
            elif axis:
                change |= _change(axis, at, {**params, **change})
        try:
            read(ImageParams, {**params, **change})
        except ValueError as error:
            happened, _, mend = str(error).partition(". ")
            raise Refused(f"{happened.rstrip('.')}.", mend) from error
        return Cell(place, change, model)


def axes() -> dict[str, str]:
    """What can be changed along an axis: names and labels, as they are offered."""
    hints = typing.get_type_hints(ImageParams)
    found = dict(OWN)
    for field in fields(ImageParams):
        plain = hints[field.name] in (int, float, str, bool)
        if plain and (not field.metadata.get("hidden") or field.name in SHOWN):
            found[field.name] = str(field.metadata["label"])
    return found


def axis(field: str, text: str, titles: Mapping[str, str] | None = None) -> Axis | None:
    """The axis that was typed; None for no text. `titles` name values (models above all).

    Raises Refused, in two sentences.
    """
    if not text.strip():
        return None
    if field not in axes():
        raise Refused(f"{field[:60]!r} cannot be changed along an axis.", "Choose another setting.")
    values = parse(field, text)
    named = tuple(titles.get(str(value), str(value)) for value in values) if titles else ()
    return Axis(field, tuple(values), named)


def parse(field: str, text: str) -> list[Any]:
    """The values that a text stands for. Raises Refused."""
    kind = float if field == WEIGHT else typing.get_type_hints(ImageParams).get(field, str)
    pieces = _pieces(text)
    values: list[Any] = []
    for piece in pieces:
        values += [piece] if kind is str else _numbers(piece, kind, axes()[field])
        if len(values) > MOST_VALUES:
            raise Refused(f"An axis has at most {MOST_VALUES} values.", "Take fewer.")
    if not values or (field == REPLACE and len(values) < 2):
        raise Refused(
            f"There are too few values for {axes()[field]!r}.",
            "Write the words to be replaced, then others." if field == REPLACE else "Write some.",
        )
    return values


def _pieces(text: str) -> list[str]:
    rows = csv.reader(text.replace("\0", " ").splitlines(), skipinitialspace=True)
    try:
        return [piece.strip() for row in rows for piece in row if piece.strip()]
    except csv.Error as error:
        raise Refused("These values cannot be read.", "Separate them by commas.") from error


def _numbers(piece: str, kind: type, label: str) -> list[Any]:
    """One number, or a range of them. Raises Refused."""
    if kind is bool:
        if (said := piece.lower()) in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            return [said in ("true", "yes", "on", "1")]
        raise Refused(f"{piece[:40]!r} is neither true nor false.", "Write yes or no.")
    if match := COUNTED.fullmatch(piece):
        values = _spaced(float(match[1]), float(match[2]), int(match[3]))
    elif (match := STEPPED.fullmatch(piece)) and (match[3] or kind is int):
        start, end = float(match[1]), float(match[2])
        step = float(match[3]) if match[3] else (1.0 if end >= start else -1.0)
        values = _stepped(start, end, step, piece)
    else:
        try:
            values = [float(piece)]
        except ValueError as error:
            raise Refused(
                f"{piece[:40]!r} is no value for {label!r}.",
                "Write numbers such as 10, 20 or 10-50 (+10).",
            ) from error
    if kind is int:
        if any(value != int(value) for value in values if piece.find("[") < 0):
            raise Refused(f"{label!r} takes whole numbers, not {piece[:40]!r}.", "Round it.")
        return [int(value) for value in values]
    return [round(value, 6) for value in values]


def _spaced(start: float, end: float, count: int) -> list[float]:
    count = max(1, min(count, MOST_VALUES + 1))
    if count == 1:
        return [start]
    return [start + (end - start) * n / (count - 1) for n in range(count)]


def _stepped(start: float, end: float, step: float, piece: str) -> list[float]:
    if not step or (end - start) * step < 0:
        raise Refused(f"{piece[:40]!r} never comes to its end.", "Turn the step around.")
    count = min(int((end - start) / step + 1e-9) + 1, MOST_VALUES + 1)
    return [start + step * n for n in range(count)]


def _change(axis: Axis, at: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the value `at` of an axis changes. Raises Refused."""
    value = axis.values[at]
    if axis.field == WEIGHT:
        used = list(params.get("adapters") or ())
        if not used:
            raise Refused("There is no adapter whose weight could change.", "Choose one first.")
        return {"adapters": [{**one, "weight": value} for one in used]}
    if axis.field == REPLACE:
        sought, prompt = str(axis.values[0]), str(params.get("prompt", ""))
        negative = str(params.get("negative", ""))
        if sought not in prompt and sought not in negative:
            raise Refused(
                f"{sought[:60]!r} is not in the prompt.",
                "The first value is what the others replace.",
            )
        return {"prompt": prompt.replace(sought, str(value)),
                "negative": negative.replace(sought, str(value))}  # fmt: skip
    return {axis.field: value}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def grid_of(saved: Mapping[str, Any]) -> Grid:
    """What `dataclasses.asdict` made of one, from JSON. Raises ValueError."""

    def one(value: Any) -> Axis | None:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not isinstance(value.get("values"), Sequence):
            raise ValueError("This is not an axis.")
        return Axis(
            str(value.get("field")), tuple(value["values"]), tuple(map(str, value["titles"] or ()))
        )

    return Grid(*(one(saved.get(name)) for name in ("x", "y", "z")))
