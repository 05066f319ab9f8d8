"""A conversation as HTML: figures, versions, buttons, and nothing of it inside a code block."""

from __future__ import annotations

import re

import pytest

from webui.answers import Answer
from webui.chat.buttons import new_key
from webui.chat.view import Shown, chatbot_value, meter
from webui.store import Message


def message(id: str, role: str, text: str, parent: str = "", **more: object) -> Message:
    return Message(id, "c", parent, 0, role, text, **more)  # type: ignore[arg-type]


TALK = (message("1", "user", "q"), message("2", "assistant", "a", "1"))


def test_buttons_stand_behind_the_text_and_name_their_message() -> None:
    key = new_key()
    asked, answered = chatbot_value(Shown(TALK, {}, key))
    assert re.findall(r"act-(\w+) m-1", asked["content"]) == ["edit", "delete"]
    acts = re.findall(r"act-(\w+) m-2", answered["content"])
    assert acts == ["retry", "edit", "up", "down", "delete"]
    assert f'class="acts {key} last"' in answered["content"]


def test_without_a_key_there_are_no_buttons() -> None:
    assert not any("<button" in turn["content"] for turn in chatbot_value(Shown(TALK)))


@pytest.mark.parametrize(
    ("more", "offered"),
    [
        ({"state": "stopped"}, True),
        ({"state": "failed"}, True),
        ({"usage": {"finish_reason": "length"}}, True),
        ({"usage": {"finish_reason": "stop"}}, False),
    ],
)
def test_continue_is_offered_where_an_answer_was_cut(
    more: dict[str, object], offered: bool
) -> None:
    cut = message("2", "assistant", "half", "1", **more)
    assert (
        "act-continue" in chatbot_value(Shown((TALK[0], cut), {}, "k"))[1]["content"]
    ) is offered
    not_last = (TALK[0], cut, message("3", "user", "x", "2"))
    assert "act-continue" not in chatbot_value(Shown(not_last, {}, "k"))[1]["content"]


def test_versions_lead_to_the_ones_beside_them() -> None:
    children = {"": ["1"], "1": ["2", "5", "9"]}
    shown = Shown((TALK[0], message("5", "assistant", "b", "1")), children, "k")
    content = chatbot_value(shown)[1]["content"]
    assert re.findall(r"act-show m-(\d+)", content) == ["2", "9"] and " 2/3 " in content


def test_an_answer_under_way_shows_its_text_and_no_buttons() -> None:
    answer = Answer("c", "2", text="so far")
    turns = chatbot_value(Shown(TALK, {}, "k"), answer)
    assert turns[1]["content"] == "so far"


def test_messages_that_the_model_was_not_shown_say_so() -> None:
    usage = {"dropped_messages": 2, "context_length": 512, "prompt_tokens": 300}
    turns = (
        *TALK,
        message("3", "user", "q2", "2"),
        message("4", "assistant", "a2", "3", usage=usage),
    )
    value = chatbot_value(Shown(turns))
    assert ["left out" in turn["content"] for turn in value] == [True, True, False, False]
    assert "300 of 512 tokens · 2 oldest messages left out" in meter(Shown(turns))


def test_no_meter_before_the_first_answer() -> None:
    assert meter(Shown(TALK[:1])) == ""


def test_names_of_files_are_text() -> None:
    extra = {"attachments": [{"name": "<b>x</b>.txt", "text": "secret"}]}
    content = chatbot_value(Shown((message("1", "user", "q", extra=extra),)))[0]["content"]
    assert "<b>" not in content and "secret" not in content and "x" in content


def test_what_looks_like_html_is_shown_and_not_drawn() -> None:
    talk = (message("1", "user", "fix <div>"), message("2", "assistant", "a vector<int>", "1"))
    asked, answered = chatbot_value(Shown(talk))
    assert asked["content"] == "fix &#60;div>" and answered["content"] == "a vector&#60;int>"
    live = chatbot_value(Shown(talk), Answer("c", "2", text="a <b"))
    assert live[1]["content"] == "a &#60;b"
