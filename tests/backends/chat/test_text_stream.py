"""Whole characters only, and nothing after a stop string."""

from __future__ import annotations

import random

import pytest

from backends.chat.text_stream import TextStream

TEXT = "Grüße 😀👩‍👩‍👧 مرحبا بالعالم, ß! 你好 end"


def by_bytes(ids: list[int]) -> str:
    """A tokenizer whose tokens are single bytes: every character is split."""
    return bytes(ids).decode("utf-8", "replace")


def streamed(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream, pieces = TextStream(by_bytes, stops), []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.end()], stream


def test_characters_that_are_split_over_tokens_come_whole() -> None:
    pieces, _ = streamed(TEXT)
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[:4] == ["G", "r", "", "ü"]


def test_bytes_that_never_become_a_character_do_not_hold_up_the_rest() -> None:
    stream = TextStream(by_bytes)
    pieces = [stream.push(0x80) for _ in range(20)] + [stream.push(ord("a")), stream.end()]
    assert "".join(pieces).endswith("a") and "".join(pieces[:12]) != ""


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    stream = TextStream(by_bytes)
    text = "".join(stream.push(byte) for byte in "ab😀".encode()[:-1]) + stream.end()
    assert text == "ab"


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (("5",), "1 2 3 4 "),
        (("4 5", "3"), "1 2 "),
        (("never",), "1 2 3 4 5 6"),
        (("6 7",), "1 2 3 4 5 6"),  # only begun: it is part of the answer
        (("1",), ""),
        ((), "1 2 3 4 5 6"),
    ],
)
def test_the_answer_ends_before_a_stop_string(stops: tuple[str, ...], text: str) -> None:
    pieces, stream = streamed("1 2 3 4 5 6", stops)
    assert "".join(pieces) == text
    assert stream.stopped is (len(text) < len("1 2 3 4 5 6"))


def test_no_piece_of_a_stop_string_is_ever_shown() -> None:
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choice("abü") for _ in range(30))
        stops = tuple("".join(draw.choice("abü") for _ in range(4)) for _ in range(3))
        pieces, _ = streamed(text, stops)
        at = min((text.find(s) for s in stops if s in text), default=len(text))
        assert "".join(pieces) == text[:at]


def test_spaces_that_a_tokenizer_puts_between_tokens_are_kept() -> None:
    words = ["Hello", "my", "world"]
    stream = TextStream(lambda ids: " ".join(words[i] for i in ids))
    assert "".join(stream.push(i) for i in range(3)) + stream.end() == "Hello my world"
