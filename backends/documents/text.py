"""Text as it comes: which encoding it has, and what is cleaned out of it.

Told by the bytes, never by the file's name. Markdown, code, CSV, JSON, logs and HTML stay as they
are.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

from backends.base import Refused

MAX_BYTES = 20_000_000  # of one file
MAX_CHARACTERS = 2_000_000  # of one file; about 500,000 tokens, more than any model here takes in
NAME = "{name}"  # in a sentence: the reader is not told the file's name, the page puts it in

STRAY_SHARE = 0.01  # control characters up to which something is text: logs have a few
UTF16_SHARE = 0.3  # of all pairs of bytes: a NUL in the same place, as Latin text has it
BOMS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x85]")
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_STRAY = {n: None for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n\r\v\f\x1b\x85"}
_NEVER = {**_STRAY, 0x1B: None, 0xFEFF: None}
DAMAGED = "Some characters were damaged and stand as \N{REPLACEMENT CHARACTER}."


@dataclass(frozen=True)
class Document:
    """What was read. `kind`: text, pdf, docx or notebook. `pages`: 0 where there are none.

    notes: sentences on what the reader of the text should know.
    """

    kind: str
    text: str
    pages: int = 0
    notes: list[str] = field(default_factory=list)


def plain_text(data: bytes) -> Document | None:
    """`data` as text where it is certainly text: Unicode, hardly a control character in it."""
    for bom, encoding in BOMS:
        if data.startswith(bom):
            found = _decoded(data, encoding)
            return Document("text", found) if found is not None else _unclear_utf8(data)
    if b"\0" in data:
        return None
    found = _decoded(data, "utf-8")
    return None if found is None else Document("text", found)


def unclear_text(data: bytes) -> Document | None:
    """`data` as text where it may be some: no byte-order mark, older encodings, damaged UTF-8.

    Ask `plain_text` first, then whether the bytes are a known other thing.
    """
    pairs = len(data) // 2 or 1
    for encoding, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if high.count(0) > UTF16_SHARE * pairs and len(data) % 2 == 0:
            found = _decoded(data, encoding)
            if found is not None:
                return Document("text", found)
    found = _decoded(data, "utf-8")
    if found is not None:
        return Document("text", found)
    damaged = _unclear_utf8(data)
    if damaged is not None:
        return damaged
    for encoding, name in (("cp1252", "Windows-1252"), ("latin-1", "Latin-1")):
        found = _decoded(data, encoding)
        if found is not None:
            note = (
                f"It is not in Unicode and was read as {name}: look whether its letters are right."
            )
            return Document("text", found, notes=[note])
    return None


def clean(text: str) -> str:
    """One kind of line end; no control characters, terminal colours or broken surrogates."""
    text = _LINE_ENDS.sub("\n", _COLOURS.sub("", text)).translate(_NEVER)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def checked(document: Document) -> Document:
    """The document with its text cleaned. Raises Refused where there is none, or too much."""
    text = clean(document.text).strip("\n")
    if not text.strip():
        raise Refused(f"{NAME} contains no text.", "Attach a file with text in it.")
    refuse_too_long(len(text))
    return Document(document.kind, text, document.pages, document.notes)


def refuse_too_long(characters: int, more: bool = False) -> None:
    """more: there are at least so many, the rest was not looked at."""
    if characters > MAX_CHARACTERS:
        least = "at least " if more else ""
        raise Refused(
            f"{NAME} holds {least}{characters:,} characters of text, more than the "
            f"{MAX_CHARACTERS:,} that an attachment may have.",
            "Attach the part that your question is about.",
        )


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    strays = len(text) - len(text.translate(_STRAY))
    return text if strays <= STRAY_SHARE * len(text) else None


def _unclear_utf8(data: bytes) -> Document | None:
    """UTF-8 with a wrong byte here and there, as a log cut in the middle has it."""
    text = data.decode("utf-8", "replace")
    wrong = text.count("\N{REPLACEMENT CHARACTER}")
    right = sum(1 for byte in data if byte >= 0xC0) - wrong  # first bytes of longer characters
    strays = len(text) - len(text.translate(_STRAY))
    if right > 4 * wrong and strays <= STRAY_SHARE * len(text):
        return Document("text", text, notes=[DAMAGED])
    return None
