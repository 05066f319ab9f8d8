"""Which picture has which caption: metadata.jsonl, a .txt beside it, or its own name."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

from backends.base import Refused
from backends.finetune.pictures.files import Entry, Opened

METADATA = "metadata.jsonl"
MOST_CHARACTERS = 2000  # of one caption; longer ones are cut


def of(found: Opened) -> dict[str, str]:
    """By the picture's name its caption, "" where it has none.

    A line of metadata.jsonl comes first, then a .txt of the same name, then the name itself where
    neither kind of file is there. Raises Refused for a metadata.jsonl that cannot be read.
    """
    texts = {e.name: e for e in found.entries if e.ending == ".txt"}
    listed = _listed(found)
    named = not texts and listed is None
    captions = {}
    for entry in found.pictures():
        beside = texts.get(str(PurePosixPath(entry.name).with_suffix(".txt")))
        if listed is not None and entry.name in listed:
            said = listed[entry.name]
        elif beside is not None:
            said = _read(found, beside)
        else:
            said = of_name(entry.name) if named else ""
        captions[entry.name] = " ".join(said.split())[:MOST_CHARACTERS]
    return captions


def of_name(name: str) -> str:
    """What a file's name says: `0012_red-heart.png` is "red heart"."""
    stem = re.sub(r"[_\-.\s]+", " ", PurePosixPath(name).stem)
    return re.sub(r"^[\d\s]+|[\d\s]+$", "", stem)


def missing(found: Opened) -> list[str]:
    """The names in metadata.jsonl that are no picture of the dataset."""
    there = {entry.name for entry in found.pictures()}
    return sorted(set(_listed(found) or {}) - there)


def _listed(found: Opened) -> dict[str, str] | None:
    """None where there is no metadata.jsonl. Names in one of a subfolder count from there."""
    files = [e for e in found.entries if PurePosixPath(e.name).name == METADATA]
    if not files:
        return None
    listed: dict[str, str] = {}
    for file in files:
        lines = _read(found, file).splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                name, said = _line(file.name, number, line)
                listed[str(PurePosixPath(file.name).parent / name)] = said
    return listed


def _line(file: str, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, said = row["file_name"], row.get("text", row.get("caption", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        name, said = None, ""
    if not isinstance(name, str) or not isinstance(said, str):
        raise Refused(
            f"Line {number} of {file} is not a picture's name and its caption.",
            'Write each as {"file_name": "a.png", "text": "what it shows"}.',
        )
    return name, said


def _read(found: Opened, entry: Entry) -> str:
    try:
        return found.read(entry).decode("utf-8-sig", errors="replace")
    except Exception as error:  # whatever zipfile makes of damage
        raise Refused(f"{entry.name} cannot be read.", "Pack the dataset again.") from error
