"""A guest hears its own page alone, and asks for nothing that the page does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webui.demo.calls import PAGES, Calls


def join(calls: Calls, visitor: str, **body: Any) -> bool:
    whole = {"session_hash": "abc123def", "fn_index": 1, "data": ["hi"], **body}
    return calls.may_join(visitor, json.dumps(whole).encode())


@pytest.fixture
def calls() -> Calls:
    return Calls({0: 0, 1: 1})


def test_a_page_belongs_to_the_visitor_who_named_it_first(calls: Calls) -> None:
    assert join(calls, "ann") and calls.owns("ann", "abc123def")
    assert not join(calls, "bob") and not calls.owns("bob", "abc123def")
    assert join(calls, "bob", session_hash="other99")


@pytest.mark.parametrize(
    "body",
    [
        {"fn_index": 99}, {"fn_index": -1}, {"fn_index": True}, {"fn_index": "1"},
        {"data": []}, {"data": ["a", "b"]}, {"data": "a"}, {"data": None},
        {"session_hash": ""}, {"session_hash": None}, {"session_hash": "../etc"},
        {"session_hash": "x" * 41},
    ],
)  # fmt: skip
def test_what_the_page_would_not_ask_is_refused(calls: Calls, body: dict[str, Any]) -> None:
    assert not join(calls, "ann", **body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_call_is_refused(calls: Calls, body: bytes) -> None:
    assert not calls.may_join("ann", body)


def test_old_pages_are_forgotten_and_only_one_s_own(calls: Calls) -> None:
    assert join(calls, "bob", session_hash="bobs1")
    for number in range(PAGES + 5):
        assert join(calls, "ann", session_hash=f"page{number}")
    assert len(calls.owners) == PAGES + 1
    assert "page0" not in calls.owners and not join(calls, "ann", session_hash="bobs1")
