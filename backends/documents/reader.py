"""The process that reads one attached file: a hostile one can end it, and nothing else.

The file is its stdin, opened by the page, so it is told neither a path nor a name. On stdout goes
one JSON line: {"kind", "text", "pages", "notes"}, or {"error", "hint"}. It has a clock that needs
no GIL, a limit on memory, and may neither write a file nor open a connection nor start a program.
Started by `webui/attachments.py`, by its file name: whoever looks for workers on command lines
does not find it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from backends.base import Refused
from backends.documents import kinds
from backends.documents.notebook import read_notebook
from backends.documents.office import read_zip
from backends.documents.pdf import is_pdf, read_pdf
from backends.documents.text import (
    MAX_BYTES,
    NAME,
    Document,
    checked,
    plain_text,
    unclear_text,
)
from backends.runtime.reader_process import answer_once

MEMORY_BYTES = 2**30  # of address space


def read(data: bytes) -> Document:
    """What the file says, by its bytes. Raises Refused where it says nothing that can be read."""
    if not data:
        raise Refused(f"{NAME} is empty.", "Attach a file with text in it.")
    if is_pdf(data):
        return checked(read_pdf(data))
    if data.startswith(b"PK\x03\x04"):
        return checked(read_zip(data))
    if data.startswith(b"{\\rtf1"):
        raise kinds.seems("a Rich Text document", "Save it as .docx, PDF or plain text.")
    found = plain_text(data)
    if found is None:
        kinds.refuse(data)
        found = unclear_text(data)
    if found is None:
        raise kinds.unknown()
    return checked(read_notebook(found.text) or found)


def answer(data: bytes) -> dict[str, Any]:
    """`read` as what is printed."""
    try:
        return dataclasses.asdict(read(data))
    except Refused as refused:
        problem = refused
    except MemoryError:
        problem = kinds.too_large()
    return {"error": problem.message, "hint": problem.hint}


def main() -> None:
    answer_once(answer, MEMORY_BYTES, MAX_BYTES)


if __name__ == "__main__":
    main()
