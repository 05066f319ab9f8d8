"""Messages as Markdown that shows everything they say.

The page draws Markdown with HTML in it and cleans that: `vector<int>` or a pasted `<div>` would
vanish, with all that followed it. So what could begin a tag is written as a character's number,
outside code and formulas, where it stands for itself. assets/page.js undoes it for the Copy button.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

THINKING, THOUGHT = "<think>", "</think>"
LESS_THAN = "&#60;"  # hardly ever typed, so that copying can tell it from what somebody wrote
# What opens a tag or a comment, but for links in angle brackets.
TAG = r"<(?=[a-zA-Z/!?])(?!https?://[^\s<>]+>)"
# What models write in tables and formulas; without attributes it can do nothing.
PLAIN = r"</?(?:br|sub|sup|kbd|think)\s?/?>"
# An escaped sign, and what code in a line and formulas begin with: those are left as they are.
BEGINS = r"`+|\$\$|\\."
SAID = re.compile(f"{BEGINS}|(?P<tag>{TAG})")
ANSWERED = re.compile(f"{BEGINS}|{PLAIN}|(?P<tag>{TAG})")
FORMULAS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
FAR = 2000  # characters to look for an end: a long text may open many and close none
CONTAINERS = r"(?P<before>(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*)"
OPENS = re.compile(CONTAINERS + r"(?P<mark>`{3,}(?=[^`]*$)|~{3,})")
CLOSES = re.compile(r"[ \t>]*(?P<mark>`{3,}|~{3,})[ \t]*$")
CPP = re.compile(r"^(" + CONTAINERS.replace("?P<before>", "?:") + r"(?:`{3,}|~{3,})[ \t]*)cpp\b",
                 re.MULTILINE | re.IGNORECASE)  # fmt: skip
LISTED = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]")


def drawable(text: str, answer: bool = False) -> str:
    """The text as gr.Chatbot draws all of it: see `literal` and `colourable`."""
    return colourable(literal(text, answer))


def colourable(text: str) -> str:
    """C++ is coloured as C, its base in Prism.

    Gradio 6.31 loads Prism's grammar of C++ without that of C and stumbles; the message with the
    code is then not drawn at all.
    """
    if not CPP.search(text):
        return text
    rows, fence = [], ""
    for row in text.split("\n"):
        rows.append(row if fence else CPP.sub(r"\1c", row))
        fence = _fence_after(row, fence)
    return "\n".join(rows)


def literal(text: str, answer: bool = False) -> str:
    """The text with what would be taken for HTML shown as it was written.

    answer: a model wrote it; then its thoughts and a few plain tags keep their meaning
    """
    if "<" not in text:
        return text
    pattern = ANSWERED if answer else SAID
    parts = [part if code else _tagless(part, pattern) for code, part in _parts(text.split("\n"))]
    return "\n".join(parts)


def _tagless(text: str, pattern: re.Pattern[str]) -> str:
    done, at = [], 0
    while found := pattern.search(text, at):
        end = _end_of(text, found)
        done += [text[at : found.start()], LESS_THAN if found["tag"] else text[found.start() : end]]
        at = end
    return "".join([*done, text[at:]])


def _end_of(text: str, found: re.Match[str]) -> int:
    """Where the code or formula ends that begins here; else where what was found does."""
    sign, begin = found[0], found.end()
    if sign in FORMULAS:
        end = text.find(FORMULAS[sign], begin, begin + FAR)
        return end + 2 if end >= 0 else begin
    if sign[0] == "`":
        block_end = text.find("\n\n", begin, begin + FAR)
        until = block_end if block_end >= 0 else begin + FAR
        same = re.compile(f"(?<!`){sign}(?!`)").search(text, begin, until)
        return same.end() if same else begin
    return begin


def closed(text: str) -> str:
    """The text with its last code block and thought ended, so that what follows is not in them."""
    fence = ""
    for row in text.split("\n"):
        fence = _fence_after(row, fence)
    if fence:
        text = f"{text}\n{fence}"
    if text.count(THINKING) > text.count(THOUGHT):
        text = f"{text}\n{THOUGHT}\n\n"
    return text


def _fence_after(row: str, fence: str) -> str:
    """What would close the code block that is open behind this row; empty where none is.

    As CommonMark says: it ends with at least as many of the same marks, alone in their row.
    """
    if not fence:
        found = OPENS.match(row)
        # In a list or a quotation the end must stand as deep as the beginning.
        return re.sub(r"[^\s>]", " ", found["before"]) + found["mark"] if found else ""
    ends, mark = CLOSES.match(row), fence.lstrip(" \t>")
    return "" if ends and ends["mark"].startswith(mark) else fence


def _parts(rows: list[str]) -> Iterator[tuple[bool, str]]:
    """Neighbouring rows joined, and whether they are a block of code: fenced, or indented by four
    behind an empty row and in no list."""
    part: list[str] = []
    code_before = listed = False
    fence, above = "", ""
    for row in rows:
        before, fence = fence, _fence_after(row, fence)
        deep = row.startswith(("    ", "\t"))
        if LISTED.match(row):
            listed = True
        elif row.strip() and not row[0].isspace() and not above.strip():
            listed = False
        indented = deep and not listed and (not above.strip() or (code_before and not before))
        code = bool(before or fence) or indented
        if part and code != code_before:
            yield code_before, "\n".join(part)
            part = []
        part.append(row)
        code_before, above = code, row
    yield code_before, "\n".join(part)
