"""Plain text and Markdown as rows: paragraphs, gathered into blocks."""

from __future__ import annotations

from collections.abc import Iterator

from backends.finetune.data.encoding import Line
from backends.finetune.data.json_rows import wrong_bytes
from backends.finetune.data.rows import MAX_ROW, Fault, Reader

BLOCK = 4000  # characters after which a block ends at the next blank line


def text_rows(lines: Iterator[Line], each_line: bool = False, markdown: bool = False) -> Reader:
    """`{"text": …}` a block of about `BLOCK` characters, or a line; at the line it begins on.

    A block ends at a blank line, in Markdown rather before a heading; text that has neither is cut
    at a line end, or within a line, once it has four times as much. No
    character is lost but line ends and blanks.
    """
    if each_line:
        for number, text, fault in lines:
            if fault or text.strip():
                yield number, _row([text], {fault})
        return
    held: list[str] = []
    faults: set[str] = set()
    start, size = 1, 0
    for number, text, fault in lines:
        blank = not text.strip() and not fault
        heading = markdown and text.startswith("#") and size > BLOCK // 2
        if held and ((blank and size > BLOCK) or heading or size > 4 * BLOCK):
            yield start, _row(held, faults)
            held, faults, size = [], set(), 0
        if blank and not held:
            continue
        if not held:
            start = number
        *whole, text = _cut(text)
        for piece in whole:
            yield start, _row([*held, piece], {*faults, fault})
            held, faults, size, start = [], set(), 0, number
        held.append(text)
        size += len(text) + 1
        faults.add(fault)
    if held:
        yield start, _row(held, faults)


def _cut(line: str) -> list[str]:
    """A line in pieces of at most `4 * BLOCK` characters, cut at blanks where there are some."""
    pieces, at, most = [], 0, 4 * BLOCK
    while len(line) - at > most:
        end = line.rfind(" ", at + most // 2, at + most) + 1 or at + most
        pieces.append(line[at:end])
        at = end
    return [*pieces, line[at:]]


def _row(held: list[str], faults: set[str]) -> dict[str, str] | Fault:
    if "too_long" in faults or sum(map(len, held)) > MAX_ROW:
        return Fault("too_long", "A line of it has more than 16 MB.")
    if "encoding" in faults:
        return wrong_bytes("block")
    return {"text": "\n".join(held).rstrip()}
