"""Jupyter notebooks: the cells' sources and their text outputs, as Markdown."""

from __future__ import annotations

import json
import re
from typing import Any

from backends.documents.text import Document, clean

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml", "application/pdf")


def fence(text: str, language: str = "") -> str:
    """`text` in a Markdown fence longer than any in it, so that nothing inside can close it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.strip(chr(10))}\n{ticks}"


def read_notebook(text: str) -> Document | None:
    """None where the text is no notebook, a damaged one included: it is shown as it is then."""
    if '"nbformat"' not in text or not text.lstrip().startswith("{"):
        return None
    try:
        book = json.loads(text)
    except (ValueError, RecursionError):
        return None
    cells = _cells(book)
    if cells is None:
        return None
    info = book.get("metadata")
    spoken = info.get("language_info") if isinstance(info, dict) else None
    language = spoken.get("name") if isinstance(spoken, dict) else None
    word = (
        language if isinstance(language, str) and re.fullmatch(r"[\w+#-]{1,20}", language) else ""
    )
    parts: list[str] = []
    pictures = 0
    for cell in cells:
        source = _joined(cell.get("source", cell.get("input")))
        if source.strip():
            parts.append(fence(source, word) if cell.get("cell_type") == "code" else source)
        for output in cell.get("outputs") or []:
            said, drawn = _output(output)
            pictures += drawn
            if said.strip():
                parts.append("Output:\n" + fence(clean(said)))
    notes = []
    if pictures:
        one = "1 picture" if pictures == 1 else f"{pictures:,} pictures"
        notes.append(f"{one} in its outputs left out.")
    return Document("notebook", "\n\n".join(parts), notes=notes)


def _cells(book: Any) -> list[dict[str, Any]] | None:
    """The cells of format 4, or of format 3, which had them in worksheets."""
    if not isinstance(book, dict) or not isinstance(book.get("nbformat"), int):
        return None
    sheets = book.get("worksheets") if "cells" not in book else [book]
    if not isinstance(sheets, list):
        return None
    listed = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
    if not any(isinstance(cells, list) for cells in listed):
        return None
    kept = (cells for cells in listed if isinstance(cells, list))
    return [cell for cells in kept for cell in cells if isinstance(cell, dict)]


def _output(output: Any) -> tuple[str, int]:
    """What a cell's output says as text, and how many pictures it is."""
    if not isinstance(output, dict):
        return "", 0
    if output.get("traceback"):
        return _joined(output["traceback"], "\n"), 0
    data = output.get("data")
    said = output.get("text") or (data.get("text/plain") if isinstance(data, dict) else None)
    drawn = isinstance(data, dict) and any(kind in data for kind in PICTURES)
    return "" if drawn else _joined(said), int(drawn)


def _joined(lines: Any, between: str = "") -> str:
    """A string, or the list of strings that notebooks store instead."""
    if isinstance(lines, list):
        return between.join(line for line in lines if isinstance(line, str))
    return lines if isinstance(lines, str) else ""
