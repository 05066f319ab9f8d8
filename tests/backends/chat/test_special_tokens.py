"""Names of special tokens are cut in two, wherever and however they overlap."""

from __future__ import annotations

import pytest

from backends.base import Refused
from backends.chat.special_tokens import PRIVATE, SpecialTokens, pieces

NAMES = ("<|end|>", "<s>", "<|end|>more")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|end|>", ["<", "|end|>"]),
        ("a<s><s>b", ["a<", "s><", "s>b"]),
        ("<|e<|end|>nd|>", ["<|e<", "|end|>nd|>"]),
        ("<|end|>more", ["<", "|end|>more"]),
        ("< |end|>", ["< |end|>"]),
    ],
)
def test_no_piece_holds_a_whole_name(text: str, expected: list[str]) -> None:
    turns, mark = SpecialTokens(NAMES).marked([{"role": "user", "content": text}])
    assert pieces(str(turns[0]["content"]), mark) == expected
    assert not any(name in piece for name in NAMES for piece in expected)


def test_a_conversation_without_names_is_left_as_it_is() -> None:
    turns = [{"role": "user", "content": "a < b"}]
    assert SpecialTokens(NAMES).marked(turns) == (turns, "")
    assert SpecialTokens([]).marked(turns) == (turns, "")
    assert pieces("a < b", "") == ["a < b"]


def test_the_mark_is_in_no_message() -> None:
    turns = [{"role": "user", "content": "<s>\ue000"}, {"role": "assistant", "content": "\ue001"}]
    assert SpecialTokens(NAMES).marked(turns)[1] == "\ue002"


def test_a_message_of_all_that_could_be_a_mark_is_refused() -> None:
    text = "<s>" + "".join(map(chr, PRIVATE))
    with pytest.raises(Refused, match="private characters"):
        SpecialTokens(NAMES).marked([{"role": "user", "content": text}])
