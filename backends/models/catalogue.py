"""The catalogue: models known by name, one row each in assets/catalogue/*.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.base import ModelRef, Refused

FOLDER = Path(__file__).parents[2] / "assets" / "catalogue"
FILES = tuple(
    FOLDER / f"{name}.toml" for name in ("starters", "chat", "image", "multimodal", "speech")
)


@dataclass(frozen=True)
class Row:
    """One model. The README.md beside the TOML files says what each field is."""

    id: str
    title: str
    task: str
    ref: ModelRef
    licence: str
    size_mb: int
    backend: str = ""
    family: str = ""
    gated: bool = False
    choice: str = ""
    parameters: int = 0
    context: int = 0
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    training_template: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    note: str = ""
    source: ModelRef | None = None

    @property
    def starter(self) -> bool:
        """It comes with Werkbank, and needs no download."""
        return self.ref.kind in ("starter", "none")


def read_rows(*files: Path) -> tuple[Row, ...]:
    """All rows, in the order of the files. Raises ValueError for a row that is not one.

    A file is read again when it has changed.
    """
    chosen = files or FILES
    return _read(chosen, tuple((s.st_mtime_ns, s.st_size) for s in (f.stat() for f in chosen)))


@lru_cache(maxsize=20)
def _read(files: tuple[Path, ...], stamp: tuple[tuple[int, int], ...]) -> tuple[Row, ...]:
    entries = [e for f in files for e in tomllib.loads(f.read_text("utf-8")).get("model", [])]
    rows = tuple(_row(entry) for entry in entries)
    ids = [row.id for row in rows]
    for twice in {i for i in ids if ids.count(i) > 1}:
        raise ValueError(f"The catalogue has the id {twice!r} twice. Rename one.")
    return rows


def find_row(ref: ModelRef) -> Row | None:
    """The row that `ref` names, or None."""
    return next((row for row in read_rows() if row.ref == ref), None)


def training_base(ref: ModelRef) -> ModelRef:
    """`wheel:<package>` as a base means the safetensors copy of the starter that lies in it."""
    if ref.kind != "wheel":
        return ref
    rows = read_rows()
    for row in rows:
        if row.source and row.source.kind == "wheel" and row.source.name == ref.name:
            for copy in rows:
                if copy.source == row.ref:
                    return copy.ref
    return ref


def base_of(text: str) -> ModelRef:
    """The model that a training's `base` means, as lists of models name it. Raises Refused."""
    ref = training_base(ModelRef.parse(text))
    return replace(ref, revision="") if ref.kind == "hub" else ref


def base_title(text: str) -> str:
    """How people know the base of a training, from its reference."""
    try:
        ref = base_of(text)
    except Refused:
        return ""
    row = find_row(ref)
    return row.title if row else ref.name


def training_template(row: Row) -> str:
    """The chat template that marks the answers, "" where the model's own does. Raises Refused."""
    if not row.training_template:
        return ""
    file = FOLDER / "training_templates" / f"{row.training_template}.jinja"
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise Refused(
            f"The training template of {row.title} is missing ({file.name}).",
            "Get Werkbank again: a part of it is not there.",
        ) from error


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
