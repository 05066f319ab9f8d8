"""The catalogue: models known by name, one row each in assets/catalogue.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from backends.base import ModelRef

FILE = Path(__file__).parents[2] / "assets" / "catalogue.toml"


@dataclass(frozen=True)
class Row:
    """One model. The comments at the head of the TOML file say what each field is."""

    id: str
    title: str
    task: str
    ref: ModelRef
    backend: str
    licence: str
    size_mb: int
    context: int = 0
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    source: ModelRef | None = None


def read_rows(file: Path = FILE) -> tuple[Row, ...]:
    """All rows, in the order of the file. Raises ValueError for a row that is not one."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    rows = tuple(_row(entry) for entry in content.get("model", []))
    ids = [row.id for row in rows]
    for twice in {i for i in ids if ids.count(i) > 1}:
        raise ValueError(f"The catalogue has the id {twice!r} twice. Rename one.")
    return rows


def find_row(ref: ModelRef) -> Row | None:
    """The row that `ref` names, or None."""
    return next((row for row in read_rows() if row.ref == ref), None)


def _row(entry: dict[str, Any]) -> Row:
    known = {f.name for f in fields(Row)}
    name = entry.get("id", "a row without an id")
    for key in entry.keys() - known:
        raise ValueError(f"The catalogue's row {name!r} has the unknown key {key!r}. Remove it.")
    values = dict(entry)
    for key in ("ref", "source"):
        if key in values:
            values[key] = ModelRef.parse(values[key])
    try:
        return Row(**values)
    except TypeError as error:
        raise ValueError(
            f"The catalogue's row {name!r} lacks something: {error}. Add it."
        ) from None
