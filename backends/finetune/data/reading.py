"""What a part is, by its bytes first and its name second, and its rows, numbered."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from zipfile import BadZipFile

from backends.base import Refused
from backends.documents import kinds
from backends.finetune.data import encoding as text
from backends.finetune.data.encoding import Encoding
from backends.finetune.data.json_rows import json_document, json_lines
from backends.finetune.data.rows import Fault, Reader, Row
from backends.finetune.data.source import Part, Source
from backends.finetune.data.table_rows import SEPARATORS, parquet_rows, separator, table_rows
from backends.finetune.data.text_rows import text_rows
from backends.params import Params, setting

HEAD = 64 * 1024  # bytes that tell what a part is
UNITS = {"jsonl": "line", "json": "entry", "table": "line", "parquet": "row", "text": "line"}
TITLES = {"jsonl": "JSON Lines", "json": "JSON", "parquet": "Parquet"}
BROKEN = (OSError, EOFError, zlib.error, BadZipFile)  # the disk, or a ZIP by its own check
OTHERWISE = "Choose JSON, JSONL, CSV, TSV, Parquet, TXT, Markdown, or a ZIP of these."


@dataclass(frozen=True)
class ReadOptions(Params):
    """How files are read, where the guess is wrong."""

    encoding: str = setting(
        "",
        "Encoding",
        choices=(("", "as guessed"), *((n, t) for n, t in text.NAMES.items())),
        help="If letters look wrong in the preview, choose another one.",
    )
    separator: str = setting(
        "",
        "Separator",
        choices=(("", "as guessed"), *SEPARATORS.items()),
        help="What stands between the cells of a CSV file.",
    )
    header: str = setting(
        "",
        "First line of a table",
        choices=(("", "as guessed"), ("names", "names of the columns"), ("row", "a row")),
    )
    text_rows: str = setting(
        "blocks",
        "Plain text",
        choices=(("blocks", "paragraphs, joined"), ("lines", "each line is a row")),
    )


@dataclass(frozen=True)
class Layout:
    """What a part was found to be. `kind`: jsonl, json, table, parquet or text."""

    kind: str
    encoding: Encoding = Encoding("utf-8")
    separator: str = ""
    markdown: bool = False

    @property
    def title(self) -> str:
        """ "CSV (semicolon), Windows-1252 (Western European), guessed"."""
        name = TITLES.get(self.kind) or ("Markdown" if self.markdown else "Text")
        if self.kind == "table":
            name = f"Table ({SEPARATORS[self.separator]})"
        if self.kind == "parquet":
            return name
        return f"{name}, {self.encoding.title}" + ("" if self.encoding.certain else ", guessed")


def layout_of(part: Part, options: ReadOptions) -> Layout:
    """Raises Refused where the part is nothing that can be read."""
    ending = PurePosixPath(part.name).suffix.lower()
    head = _head(part)
    if not head:
        raise Refused(f"{part.name} is empty.", "Choose a file with rows in it.")
    if head.startswith(b"PAR1"):
        return Layout("parquet")
    if options.encoding:
        found: Encoding | None = text.chosen(options.encoding)
    else:
        found = _guess(part, head)
    if found is None or (not found.certain and not options.encoding and _is_known(head)):
        raise _no_text(part.name, head)
    pieces = text.texts(io.BytesIO(head), found)
    sample = "".join(pieces)
    if not sample.strip("\ufeff\0 \t\r\n") and len(head) < HEAD:
        raise Refused(f"{part.name} has nothing but blanks in it.", OTHERWISE)
    return _layout_of_text(ending, sample, found, options)


def _head(part: Part) -> bytes:
    """Its first bytes, as far as they can be read."""
    head = b""
    with _reading(part), part.open() as file:
        try:
            while len(head) < HEAD and (piece := file.read(4096)):
                head += piece
        except BROKEN:
            if not head:
                raise
    return head


def _guess(part: Part, head: bytes) -> Encoding | None:
    with _reading(part), part.open() as file:
        try:
            return text.guess(file)
        except BROKEN:
            return text.guess(io.BytesIO(head))


def _is_known(head: bytes) -> bool:
    return any(head[at:].startswith(sign) for at, sign, _, _ in kinds.SIGNS if len(sign) > 2)


def _no_text(name: str, head: bytes) -> Refused:
    for at, sign, what, _ in kinds.SIGNS:
        if head[at:].startswith(sign):
            return Refused(f"{name} is {what}, not a dataset.", OTHERWISE)
    return Refused(f"{name} is no text and no Parquet file.", OTHERWISE)


def _layout_of_text(ending: str, sample: str, found: Encoding, options: ReadOptions) -> Layout:
    if found.mac:
        sample = sample.replace("\r", "\n")
    lines = [line for line in sample.splitlines() if line.strip("\ufeff\0 \t")][:20]
    first = sample.lstrip("\ufeff\0 \t\r\n")[:1]
    whole = sum(map(_is_whole, lines))
    as_json = ending in (".json", ".jsonl", ".ndjson")
    if first in ("{", "[") and (as_json or whole or ending not in (".csv", ".tsv", ".md")):
        several = whole > 1 or (whole == 1 and len(lines) == 2)
        if ending in (".jsonl", ".ndjson"):  # the first line is longer than the head, or broken
            several |= len(lines) == 1 or lines[0].rstrip()[-1:] in ("}", "]")
        one = len(lines) == 1 and lines[0].lstrip("\ufeff")[:1] == "["
        return Layout("jsonl" if several and not one else "json", found)
    if as_json:
        return Layout("jsonl", found)
    chosen = options.separator or separator(sample, ending)
    if ending in (".csv", ".tsv") or (options.separator and ending == ".txt"):
        return Layout("table", found, chosen)
    return Layout("text", found, markdown=ending in (".md", ".markdown"))


def _is_whole(line: str) -> bool:
    """Whether a line is a JSON object or list of its own."""
    line = line.strip("\ufeff\0 \t\r\n")
    if line[:1] not in ("{", "[") or line in ("[]", "{}"):
        return False
    try:
        return isinstance(json.loads(line), (dict, list))
    except (ValueError, RecursionError):
        return False


@contextmanager
def _reading(part: Part) -> Iterator[None]:
    """Errors of the disk or of a ZIP's own check, as a sentence."""
    try:
        yield
    except BROKEN as error:
        raise Refused(
            f"{part.name} cannot be read ({str(error)[:80] or type(error).__name__}).",
            "Check the disk, or get the file again.",
        ) from error


def rows(
    source: Source,
    layouts: dict[str, Layout],
    options: ReadOptions,
    seen: Callable[[int], None] | None = None,
) -> Iterator[Row]:
    """All rows, streaming. `seen` is told now and then how many bytes of the source were used.

    A part that breaks off gives a row with a fault, and the next part goes on. Raises Refused for
    an archive that turns out to be a bomb, and for a part that cannot be opened.
    """
    number = before = 0
    for part in source.parts:
        layout = layouts[part.name]
        name = part.name if source.several else ""
        unit = UNITS[layout.kind]
        with _reading(part):
            opened = part.seekable() if layout.kind == "parquet" else part.open()
        with opened as stream:
            line = 0
            for line, found in _until_broken(_reader(stream, part, layout, options)):
                number += 1
                if seen and number % 64 == 0:
                    seen(before + _used(part, stream))
                fault = found if isinstance(found, Fault) else None
                value = None if isinstance(found, Fault) else found
                yield Row(number, value, fault, name, line, unit)
        before += part.size
        if seen:
            seen(before)


def _used(part: Part, stream: BinaryIO) -> int:
    try:
        return part.position(stream)
    except (OSError, ValueError, AssertionError):  # a copy out of a ZIP
        return 0


def _reader(stream: BinaryIO, part: Part, layout: Layout, options: ReadOptions) -> Reader:
    if layout.kind == "parquet":
        return parquet_rows(stream, part.name)
    if layout.kind == "json":
        return json_document(stream, layout.encoding)
    found = text.lines(stream, layout.encoding)
    if layout.kind == "jsonl":
        return json_lines(found)
    if layout.kind == "table":
        header = {"": None, "names": True, "row": False}[options.header]
        return table_rows(found, layout.separator, header)
    return text_rows(found, options.text_rows == "lines", layout.markdown)


def _until_broken(reader: Reader) -> Reader:
    """The reader's rows; where the file itself breaks off, a last one that says so."""
    line = 0
    try:
        for line, found in reader:
            yield line, found
    except BROKEN as error:
        why = str(error)[:80] or type(error).__name__
        yield line + 1, Fault("damaged", f"The file is damaged from here on ({why}).")
