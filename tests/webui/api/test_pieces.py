"""From a backend's events to pieces: what belongs together stays so, and errors are errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from backends.events import Done, Failed, Item, Notice, Progress, Text
from backends.models import library
from webui.api.answering import Called, Said, pieces_of
from webui.api.asked import Asked
from webui.api.errors import ApiError


def heard(events: list[Any], **asked: Any) -> list[Any]:
    async def said() -> AsyncGenerator[Any, None]:
        for event in events:
            yield event

    async def all_of() -> list[Any]:
        request = Asked(library.find_model("chat", "echo"), {}, False, False, "me", **asked)
        return [piece async for piece in pieces_of(said(), request)]

    return asyncio.run(all_of())


def call(index: int, arguments: str) -> Item:
    return Item("tool_call", {"index": index, "id": "x", "name": "f", "arguments": arguments})


def test_tokens_go_with_the_text_after_them() -> None:
    events = [Progress(1), Item("logprobs", [1]), Item("logprobs", [2]), Text("ab"), Text("c"),
              Notice("n"), Item("logprobs", [3]), Done()]  # fmt: skip
    assert heard(events) == [Said("ab", [1, 2]), Said("c"), Said("", [3]), Done()]  # type: ignore


def test_a_call_in_parts_begins_once_and_only_the_first_is_kept_where_one_is_wanted() -> None:
    events = [call(0, "{"), call(0, "}"), call(1, "{}"), Done()]
    pieces = [piece for piece in heard(events) if isinstance(piece, Called)]
    assert [(p.index, p.begins) for p in pieces] == [(0, True), (0, False), (1, True)]
    assert [p.index for p in heard(events, one_call=True) if isinstance(p, Called)] == [0, 0]


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (Failed("It broke.", "Again."), 500, None),
        (Failed("No.", "Do.", refused=True), 400, None),
        (Failed("The context is full.", "Do.", refused=True), 400, "context_length_exceeded"),
    ],
)
def test_a_failure_is_an_error_of_http(event: Failed, status: int, code: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        heard([Text("a"), event])
    assert caught.value.status == status and caught.value.body["error"]["code"] == code


def test_events_that_end_without_an_end_are_an_error() -> None:
    with pytest.raises(ApiError, match="ended without an end"):
        heard([Text("a")])
