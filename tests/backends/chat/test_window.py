"""What leaves when a conversation is longer than the context, and what never does."""

from __future__ import annotations

import pytest

from backends.base import Refused
from backends.chat.params import ChatParams, Message
from backends.chat.window import Turn, Window, fit


def talk(pairs: int, words: int = 10, system: bool = True) -> list[Turn]:
    turns = [{"role": "system", "content": "s " * 5}] if system else []
    for i in range(pairs):
        turns.append({"role": "user", "content": f"q{i} " + "w " * (words - 1)})
        turns.append({"role": "assistant", "content": f"a{i} " + "w " * (words - 1)})
    return [*turns, {"role": "user", "content": "last " * words}]


def count(turns: list[Turn]) -> int:
    return sum(len(t["content"].split()) for t in turns)


def test_all_of_it_is_shown_where_it_fits() -> None:
    turns = talk(2)
    assert fit(turns, count, 100, 20, drop=True) == Window(turns, 55)


def test_the_oldest_leave_and_what_must_stay_stays() -> None:
    window = fit(talk(20), count, 100, 20, drop=True)
    assert window.tokens + 20 <= 100
    assert window.turns[0]["role"] == "system" and window.turns[1]["role"] == "user"
    assert window.turns[-1]["content"].startswith("last")
    assert window.dropped + len(window.turns) == len(talk(20))
    assert f"{window.dropped} messages were left out" in window.notice


def test_the_cut_stays_where_it_is_for_several_turns() -> None:
    """Else nothing that was read before could be used again."""
    first = [fit(talk(n), count, 400, 40, drop=True).turns[1]["content"] for n in range(30, 60)]
    moves = sum(a != b for a, b in zip(first, first[1:], strict=False))
    assert moves <= 7  # of 30 turns, each of 20 tokens: a quarter of 400 lasts five of them


def test_no_more_leaves_than_a_quarter_beyond_what_must() -> None:
    for pairs in range(10, 40):
        window = fit(talk(pairs), count, 200, 20, drop=True)
        assert 200 - 20 - 50 - 20 <= window.tokens <= 180


def test_few_looks_at_a_long_conversation() -> None:
    calls = []

    def counted(turns: list[Turn]) -> int:
        calls.append(1)
        return count(turns)

    fit(talk(2000), counted, 400, 40, drop=True)
    assert len(calls) < 40


def test_where_nothing_may_leave_it_is_refused_with_figures() -> None:
    with pytest.raises(Refused, match="415 tokens long, and the context takes 100"):
        fit(talk(20), count, 100, 20, drop=False)


def test_a_last_question_that_fills_the_context_alone_is_refused() -> None:
    with pytest.raises(Refused, match="the context takes 100"):
        fit([*talk(3), {"role": "user", "content": "x " * 120}], count, 100, 20, drop=True)
    with pytest.raises(Refused, match="the context takes 100"):
        fit([{"role": "user", "content": "x " * 120}], count, 100, 20, drop=True)


def test_a_question_that_leaves_no_full_room_still_gets_an_answer() -> None:
    window = fit([*talk(3), {"role": "user", "content": "x " * 90}], count, 100, 20, drop=True)
    assert window.tokens == 95 and window.dropped == 7


def test_an_answer_to_be_continued_stays_with_its_question() -> None:
    turns = [*talk(20), {"role": "assistant", "content": "half of it"}]
    window = fit(turns, count, 100, 20, drop=True)
    assert window.turns[-1]["content"] == "half of it" and window.turns[-2]["role"] == "user"


def test_counting_shows_all_of_it() -> None:
    messages = tuple(Message("user", "x " * 300) for _ in range(3))
    assert ChatParams(messages, count_only=True).window(count, 100) == Window(
        ChatParams(messages).conversation(), 900
    )
