"""What a folder or file holds, and whether it may be opened: from its index and header alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.image.families import FAMILIES, Family
from backends.models.check import read_json, read_safetensors
from backends.models.gguf_header import AGAIN

INDEX = "model_index.json"


@dataclass(frozen=True)
class Recognised:
    """`missing`: components that the folder does without, whose argument is then None."""

    family: Family
    path: Path
    single: bool = False
    missing: tuple[str, ...] = ()


def recognise(path: Path) -> Recognised:
    """The family of what `backends.models.check` has passed. Raises Refused, in a sentence."""
    if path.is_dir():
        return _of_folder(path)
    tensors = read_safetensors(path).tensors
    for family in FAMILIES:
        shapes = [(tensors.get(key, ()), extent) for key, extent in family.keys.items()]
        if shapes and all(s and extent in (0, s[-1]) for s, extent in shapes):
            return Recognised(family, path, single=True)
    known = ", ".join(family.title for family in FAMILIES if family.keys)
    raise Refused(
        f"{path.name} is no checkpoint of a kind that is known here.",
        f"Single files are opened of {known}. Of other kinds take the folder that diffusers reads.",
    )


def _of_folder(folder: Path) -> Recognised:
    if not (folder / INDEX).is_file():
        raise Refused(
            f"{folder.name} is not an image model: it has no {INDEX}.",
            "Put the whole folder there as diffusers reads it, or a single .safetensors file.",
        )
    index = read_json(folder / INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    family = next((row for row in FAMILIES if row.index_class == name), None)
    if family is None:
        raise Refused(
            f"{folder.name} is of the kind {str(name)[:60]!r}, which is not known here.",
            "Known are: " + ", ".join(row.index_class for row in FAMILIES) + ".",
        )
    missing = tuple(part for part in family.parts if not _there(folder, index, family, part))
    for part in index:
        if part not in family.parts and isinstance(index[part], list):
            _refuse(folder, part, index[part])
    return Recognised(family, folder, missing=missing)


def _there(folder: Path, index: dict[str, Any], family: Family, part: str) -> bool:
    """Whether the folder has this component. Raises Refused where it is of another class."""
    named = index.get(part)
    if named is None or named == [None, None]:
        return False
    if not isinstance(named, list) or len(named) != 2:
        _refuse(folder, part, named)
    library, name = named
    allowed = family.parts[part]
    wanted = allowed.get("*") or allowed.get(str(name))
    plain = isinstance(name, str) and name.isidentifier()
    if wanted is None or library != wanted or not plain:
        _refuse(folder, part, named)
    return True


def _refuse(folder: Path, part: str, named: Any) -> None:
    said = ".".join(str(one)[:60] for one in named) if isinstance(named, list) else str(named)[:60]
    raise Refused(
        f"{folder.name} wants {said} for its {part}, which is not opened here: it could bring "
        "code of its own.",
        AGAIN,
    )
