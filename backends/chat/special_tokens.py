"""Special tokens in what people write: "<|im_end|>" in a message is eight characters, not an end.

A tokenizer reads such a token wherever its name stands in the text. So the name is cut in two after
its first character, and the two sides are tokenised apart: the model reads what was written, and
the count of tokens is that of what it read. (A tokenizer that opens every text with a space puts
one at the cut.) A text without such names is tokenised whole, as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from backends.base import Refused

PRIVATE = range(0xE000, 0xF8FF)  # characters that mean nothing: one marks the cuts in a template


class SpecialTokens:
    """The names of a model's control tokens."""

    def __init__(self, names: Iterable[str]) -> None:
        longest_first = sorted({n for n in names if len(n) > 1}, key=len, reverse=True)
        # Looked for without consuming, so that one name inside another is found too.
        found = "|".join(re.escape(name) for name in longest_first)
        self.pattern = re.compile(f"(?={found})") if found else None

    def are_in(self, text: str) -> bool:
        return bool(self.pattern and self.pattern.search(text))

    def marked(self, turns: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        """Conversation turns with a mark in each name, and the mark; "" where there is none."""
        texts = [str(turn["content"]) for turn in turns]
        if not any(self.are_in(text) for text in texts):
            return turns, ""
        used = set[str]().union(*texts)
        mark = next((chr(c) for c in PRIVATE if chr(c) not in used), "")
        if not mark:
            raise Refused(
                "The conversation holds all of Unicode's private characters.",
                "Start a new one without them.",
            )
        cut = [self._marked(text, mark) for text in texts]
        return [{**turn, "content": text} for turn, text in zip(turns, cut, strict=True)], mark

    def _marked(self, text: str, mark: str) -> str:
        assert self.pattern
        starts = [found.start() + 1 for found in self.pattern.finditer(text)]
        edges = [0, *starts, len(text)]
        return mark.join(text[a:b] for a, b in zip(edges, edges[1:], strict=False))


def pieces(text: str, mark: str) -> list[str]:
    """A rendered text at its marks: what is tokenised apart, from left to right."""
    return [piece for piece in text.split(mark) if piece] if mark else [text]
