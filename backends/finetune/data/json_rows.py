"""Rows of JSON Lines, and of one JSON document, entry by entry without holding it all."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

from backends.finetune.data.encoding import ESCAPED, Encoding, Line, texts
from backends.finetune.data.rows import MAX_ROW, Fault, Reader

# Lists under these names belong to one row; under other names they are lists of rows.
OF_A_ROW = {
    "messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "history",
    "prompt", "completion", "chosen", "rejected", "tools", "functions", "content", "images",
}  # fmt: skip
_STEPS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]|"', re.S)
_SPACE = re.compile(r"[\s\ufeff]*")
_BETWEEN = re.compile(r"[\s,\ufeff\0]*")
NAMES = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}

DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # `loads` would make one for each row


def json_lines(lines: Iterator[Line]) -> Reader:
    """One JSON value a line; blank lines are none."""
    for number, text, fault in lines:
        if fault == "too_long":
            yield number, Fault(fault, "The line has more than 16 MB.")
        elif fault:
            yield number, wrong_bytes("line")
        elif text and not text.isspace() and text != "\0":
            yield number, row_of(text)


def wrong_bytes(unit: str) -> Fault:
    return Fault("encoding", f"The {unit} has bytes that are not in the file's encoding.")


def row_of(text: str) -> dict[str, Any] | Fault:
    """The row that a JSON text holds, or why it holds none."""
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        return Fault("damaged", f"It is not JSON ({error.msg}, character {error.pos + 1:,}).")
    except RecursionError:
        return Fault("damaged", "It is nested too deeply.")
    except ValueError:
        return Fault("damaged", "A number in it has too many digits.")
    return as_row(value)


def as_row(value: Any) -> dict[str, Any] | Fault:
    """An object is a row; a text alone is one of text, a list of messages alone a conversation."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {"messages": value}
    return Fault("damaged", f"It is {NAMES.get(type(value), 'nothing (null)')}, not an object.")


def json_document(file: BinaryIO, encoding: Encoding) -> Reader:
    """The entries of a JSON document, numbered from 1.

    The document is a list; an object with lists of rows in it (`{"train": [...]}`); an object of
    columns; a single row; or values one behind the other.
    """
    yield from enumerate(_Document(texts(file, encoding)).entries(), 1)


class _Document:
    """A window of text that moves over the document."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces = pieces
        self.text, self.at = "", 0
        self.ended = False
        self.decode = json.JSONDecoder(parse_constant=lambda name: None).raw_decode

    def more(self) -> bool:
        """Take in more; as much as is waiting, so that long entries are not scanned over and over.

        False at the end of the document.
        """
        wanted = max(1, len(self.text) - self.at)
        taken, pieces = 0, []
        while taken < wanted:
            piece = next(self.pieces, None)
            if piece is None:
                self.ended = True
                break
            pieces.append(piece)
            taken += len(piece)
        self.text, self.at = self.text[self.at :] + "".join(pieces), 0
        return taken > 0

    def peek(self, skipped: re.Pattern[str] = _SPACE) -> str:
        """The next character that is not skipped; "" at the end."""
        while True:
            match = skipped.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def entries(self) -> Iterator[dict[str, Any] | Fault]:
        first = self.peek()
        if first == "[":
            self.at += 1
            closed = yield from self.items()
            if not closed:
                yield Fault("damaged", "The file ends in the middle of its list.")
        elif first == "{":
            yield from self.members()
        # What stands behind the first value: more of them, or rubbish that is told.
        yield from self.items(closing="")

    def items(self, closing: str = "]") -> Generator[dict[str, Any] | Fault, None, bool]:
        """Values up to a closing bracket, or up to the end; returns whether the bracket came."""
        while (character := self.peek(_BETWEEN)) != "":
            if character == closing:
                self.at += 1
                return True
            yield self.item()
        return not closing

    def item(self) -> dict[str, Any] | Fault:
        """The next value as a row. Always moves on."""
        try:
            value, end = self.decode(self.text, self.at)
        except (ValueError, RecursionError):
            pass
        else:
            if end < len(self.text) and end - self.at <= MAX_ROW:  # else it may go on
                start, self.at = self.at, end
                lost = ESCAPED.search(self.text, start, end)
                return wrong_bytes("entry") if lost else as_row(value)
        text = self.value()
        if ESCAPED.search(text):
            return wrong_bytes("entry")
        if len(text) > MAX_ROW:
            return Fault("too_long", "The entry has more than 16 MB.")
        return row_of(text)

    def value(self) -> str:
        """The text of the next value, at least one character; what is broken ends before what
        looks like the next entry."""
        margin = _margin(self.text, self.at)
        while True:
            end = self.end()
            if end is not None or not self._grow():
                break
        stop = len(self.text) if end is None else end
        text = self.text[self.at : stop]
        if end is None or not self._sound(text):
            again = _next_entry(text, margin)
            if again:
                stop = self.at + again
                text = self.text[self.at : stop]
        self.at = max(stop, self.at + 1)
        return text or self.text[self.at - 1 : self.at]

    def _grow(self) -> bool:
        """More text for an entry that has not ended. False at the end, or beyond what one may
        have."""
        return len(self.text) - self.at <= MAX_ROW and self.more()

    def _sound(self, text: str) -> bool:
        try:
            self.decode(text)
        except (ValueError, RecursionError):
            return False
        return True

    def end(self) -> int | None:
        """Where the value that begins here ends; None where the window ends first."""
        text, start = self.text, self.at
        try:
            _, end = self.decode(text, start)
        except (ValueError, RecursionError):
            pass
        else:
            # A number, or a word, may go on behind the window.
            return end if end < len(text) or text[start] in '{["' or self.ended else None
        if text[start] not in '{["':
            match = re.compile(r"[,\]}\s]").search(text, start + 1)
            return match.start() if match else None
        depth = 0
        for match in _STEPS.finditer(text, start):
            step = match[0]
            if step == '"':
                return None
            if step in "{[":
                depth += 1
            elif step in "}]":
                depth -= 1
            if depth <= 0:
                return match.end()
        return None

    def members(self) -> Iterator[dict[str, Any] | Fault]:
        """An object at the top: its lists of rows, else the object itself."""
        start_of_all = self.at
        if self._is_one_row():
            yield self.item()
            return
        self.at = start_of_all + 1
        rest: dict[str, Any] = {}
        streamed = False
        while (character := self.peek(_BETWEEN)) not in ("", "}"):
            key = self.value()
            name = _plain(key)
            if self.peek() != ":" or not isinstance(name, str):
                yield Fault("damaged", f"Something else than a name stands at {key[:40]!r}.")
                continue
            self.at += 1
            character = self.peek()
            if character == "[" and self._opens_rows():
                streamed = True
                self.at += 1
                closed = yield from self.items()
                if not closed:
                    yield Fault("damaged", "The file ends in the middle of a list.")
                continue
            if not character:
                break
            rest[name] = _plain(self.value())
        if character == "}":
            self.at += 1
        else:
            yield Fault("damaged", "The file ends in the middle of an object.")
        if not streamed and rest:
            yield from _columns(rest)

    def _is_one_row(self) -> bool:
        """Whether the object at the top has a name in it that only rows have, near its start."""
        while len(self.text) - self.at < 4096 and self.more():
            pass
        names = re.findall(r'"(\w+)"\s*:\s*([\[{"]?)', self.text[self.at : self.at + 4096])
        return bool(names) and names[0][0] in OF_A_ROW or _has_row_names({n for n, _ in names[:3]})

    def _opens_rows(self) -> bool:
        """Whether the list that begins here has objects or lists in it."""
        while len(self.text) - self.at < 4096 and self.more():
            pass
        return bool(re.compile(r"\[\s*[{\[]").match(self.text, self.at))


def _has_row_names(names: set[str]) -> bool:
    return bool(names & {"messages", "conversations"})


def _plain(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None


def _columns(value: dict[str, Any]) -> Iterator[dict[str, Any] | Fault]:
    """`{"question": [...], "answer": [...]}` as rows; anything else is one row."""
    lists = [column for column in value.values() if isinstance(column, list)]
    if len(lists) < len(value) or len({len(column) for column in lists}) != 1 or not lists[0]:
        yield value
        return
    for cells in zip(*lists, strict=True):
        yield dict(zip(value, cells, strict=True))


def _margin(text: str, at: int) -> str:
    """The line break and blanks before an entry: those before the next one look the same."""
    start = text.rfind("\n", max(0, at - 64), at)
    return text[start:at] if start >= 0 and not text[start:at].strip() else ""


def _next_entry(broken: str, margin: str) -> int:
    """Where in a broken entry another one seems to begin; 0 where none does."""
    if margin:
        return max(0, broken.find(margin + "{", 1))
    first = re.match(r'\{\s*"\w+"\s*:', broken)  # lists inside a row have other names in them
    like = re.escape(first[0]) if first else r"\{"
    match = re.compile(rf"[}}\]\"\d,]\s*,?\s*(?={like})").search(broken, 1)
    return match.end() if match else 0
