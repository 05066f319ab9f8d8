"""Weights in a prompt, as AUTOMATIC1111 writes them: (word) [word] (word:1.3), with \\( for a
bracket that is meant."""

from __future__ import annotations

import re

ROUND, SQUARE = 1.1, 1 / 1.1  # what one pair of brackets does
_PIECE = re.compile(r"\\[()\[\]\\]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|[^\\()\[\]:]+|:|\\")

Piece = tuple[str, float]


def pieces(prompt: str) -> list[Piece]:
    """The prompt's text in pieces, each with its weight. A bracket that is never closed counts to
    the end; one that was never opened is text."""
    found: list[list[str | float]] = []
    round_, square = list[int](), list[int]()

    def weigh(start: int, factor: float) -> None:
        for piece in found[start:]:
            piece[1] = float(piece[1]) * factor

    for match in _PIECE.finditer(prompt):
        text, weight = match[0], match[1]
        if text.startswith("\\") and len(text) == 2:
            found.append([text[1], 1.0])
        elif text == "(":
            round_.append(len(found))
        elif text == "[":
            square.append(len(found))
        elif weight is not None and round_:
            weigh(round_.pop(), float(weight))
        elif text == ")" and round_:
            weigh(round_.pop(), ROUND)
        elif text == "]" and square:
            weigh(square.pop(), SQUARE)
        else:
            found.append([text, 1.0])
    for start in round_:
        weigh(start, ROUND)
    for start in square:
        weigh(start, SQUARE)
    return _joined(found)


def _joined(found: list[list[str | float]]) -> list[Piece]:
    """Neighbours of one weight as one piece."""
    joined: list[Piece] = []
    for text, weight in found:
        value = round(float(weight), 6)
        if joined and joined[-1][1] == value:
            joined[-1] = (joined[-1][0] + str(text), value)
        else:
            joined.append((str(text), value))
    return joined


def plain(prompt: str) -> str:
    """The text without its marks."""
    return "".join(text for text, _ in pieces(prompt))


def has_weights(prompt: str) -> bool:
    return any(weight != 1.0 for _, weight in pieces(prompt))
