"""From a wish to an answer: what is written, what the model is asked, what is refused unchanged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from tests.benches import with_bench
from webui.answers import Answer
from webui.attachments import Attachment
from webui.bench import Bench
from webui.chat.follow import Views, shown_of
from webui.chat.pair import begin_pair, decide, open_pair
from webui.chat.turns import Asked, Wish, begin, turns_up_to


def echo(bench: Bench, **settings: Any) -> Asked:
    return Asked(bench.find("echo"), {}, settings)


async def ended(*answers: Answer | None) -> None:
    for answer in answers:
        assert answer and answer.task
        done, _ = await asyncio.wait({answer.task}, timeout=20)
        assert done


async def said(bench: Bench, text: str, conversation: str = "", behind: str = "") -> Answer:
    answer = begin(bench, Wish("send", conversation, behind, text), echo(bench))
    await ended(answer)
    assert answer
    return answer


def texts(bench: Bench, conversation: str) -> list[str]:
    return [m.text for m in bench.store.messages(conversation)]


def test_a_message_goes_behind_the_one_that_its_page_shows(home: Path) -> None:
    async def body(bench: Bench) -> None:
        first = await said(bench, "one")
        talk, tip = first.conversation, first.message
        await said(bench, "two", talk, tip)
        await said(bench, "zwei", talk, tip)  # from a page that has not seen "two"
        assert texts(bench, talk) == ["one", "one", "zwei", "zwei"]
        two = bench.store.siblings(bench.store.messages(talk)[2].id)
        assert [m.text for m in two] == ["two", "zwei"]

    with_bench(home, body)


def test_retry_is_a_version_and_edit_is_a_branch(home: Path) -> None:
    async def body(bench: Bench) -> None:
        first = await said(bench, "one")
        talk = first.conversation
        await ended(begin(bench, Wish("retry", talk, first.message), echo(bench)))
        assert len(bench.store.siblings(first.message)) == 2
        question = bench.store.messages(talk)[0].id
        await ended(begin(bench, Wish("edit", talk, question, "uno"), echo(bench)))
        assert texts(bench, talk) == ["uno", "uno"]
        answer = bench.store.messages(talk)[1].id
        assert begin(bench, Wish("edit", talk, answer, "due"), echo(bench)) is None
        assert texts(bench, talk) == ["uno", "due"]

    with_bench(home, body)


def test_an_answer_goes_on_in_its_place(home: Path) -> None:
    async def body(bench: Bench) -> None:
        first = await said(bench, "a b c")
        talk = first.conversation
        bench.store.finish_message(first.message, "a b  ", "stopped")
        more = begin(bench, Wish("continue", talk, first.message), echo(bench))
        assert more and more.message == first.message and more.text == "a b"
        await ended(more)
        assert texts(bench, talk)[1].startswith("a b") and len(texts(bench, talk)[1]) > 3
        assert bench.store.messages(talk)[1].state == "done"

    with_bench(home, body)


def test_files_are_in_the_prompt_and_not_in_the_message(home: Path) -> None:
    async def body(bench: Bench) -> None:
        file = Attachment("note.txt", "the word is turquoise")
        answer = begin(bench, Wish("send", text="which?", files=(file,)), echo(bench))
        await ended(answer)
        assert answer
        question = bench.store.messages(answer.conversation)[0]
        assert question.text == "which?"
        [turn] = turns_up_to(bench, question)
        assert "turquoise" in turn["content"] and turn["content"].endswith("which?")

    with_bench(home, body)


def test_what_is_refused_changes_nothing(home: Path) -> None:
    async def body(bench: Bench) -> None:
        first = await said(bench, "one")
        talk, tip = first.conversation, first.message
        for wish, how in (
            (Wish("send", talk, tip, "  "), {}),
            (Wish("send", talk, tip, "two"), {"temperature": 9.0}),
            (Wish("edit", talk, bench.store.messages(talk)[0].id, " "), {}),
            (Wish("edit", talk, tip, " "), {}),
            (Wish("retry", talk, "999"), {}),
            (Wish("continue", talk, bench.store.messages(talk)[0].id), {}),
        ):
            with pytest.raises((Refused, ValueError), match=r"\. \w"):
                begin(bench, wish, echo(bench, **how))
        assert texts(bench, talk) == ["one", "one"]

    with_bench(home, body)


def test_a_second_message_waits_for_the_end_of_the_answer(home: Path) -> None:
    async def body(bench: Bench) -> None:
        slow = echo(bench, words=2000, words_per_second=200.0)
        answer = begin(bench, Wish("send", text="go"), slow)
        assert answer
        with pytest.raises(Refused, match="still being written"):
            begin(bench, Wish("send", answer.conversation, answer.message, "x"), echo(bench))
        bench.answers.stop(answer)
        await ended(answer)

    with_bench(home, body)


def test_two_answers_side_by_side_and_a_vote(home: Path) -> None:
    async def body(bench: Bench) -> None:
        left, right = begin_pair(bench, Wish("send", text="a b"), echo(bench), echo(bench, words=5))
        assert left.conversation == right.conversation
        assert bench.answers.all_of(left.conversation) == [left, right]
        await ended(left, right)
        shown = shown_of(bench, left.conversation, "k")
        pair = open_pair(bench, shown)
        assert pair and (pair.left.id, pair.right.id) == (left.message, right.message)
        assert [m.text for m in pair.shown.messages] == ["a b"]
        seeds = [m.extra["settings"]["seed"] for m in (pair.left, pair.right)]
        assert seeds[0] == seeds[1] >= 0
        decide(bench, pair, "left")
        assert texts(bench, left.conversation) == ["a b", "a b"]
        assert open_pair(bench, shown_of(bench, left.conversation, "k")) is None
        assert [p.chosen for p in bench.store.pairs()] == ["a b"]

    with_bench(home, body)


def test_alike_keeps_no_preference_and_ends_the_comparison(home: Path) -> None:
    async def body(bench: Bench) -> None:
        left, right = begin_pair(bench, Wish("send", text="x"), echo(bench), echo(bench, words=3))
        await ended(left, right)
        pair = open_pair(bench, shown_of(bench, left.conversation, "k"))
        assert pair
        decide(bench, pair, "alike")
        assert open_pair(bench, shown_of(bench, left.conversation, "k")) is None
        assert list(bench.store.pairs()) == [] and texts(bench, left.conversation)[-1] == "x"

    with_bench(home, body)


def test_one_model_loaded_in_two_ways_answers_one_after_the_other(home: Path) -> None:
    async def body(bench: Bench) -> None:
        listed = bench.find("echo")
        other = {"ballast_mb": 3}
        assert bench.fits_together((listed, {}), (listed, {}))
        assert not bench.fits_together((listed, {}), (listed, other))
        left, right = begin_pair(
            bench, Wish("send", text="x"), echo(bench), Asked(listed, other, {})
        )
        await ended(left, right)
        assert [left.state, right.state] == ["done", "done"], (left.note, right.note)

    with_bench(home, body)


def test_a_page_follows_what_it_shows_and_only_that() -> None:
    views, answer = Views(), Answer("c", "m")
    views.look("p", "c", [answer])
    assert views.begun("p", pair=True) is None
    follow = views.begun("p", pair=False)
    assert follow and follow.current and views.begun("p", pair=False) is None
    views.look("p", "d")
    assert not follow.current and views.at("p") == "d" and views.at("q") == ""
