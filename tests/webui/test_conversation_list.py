"""The list as HTML: groups by age, marked hits, nothing that a title could break."""

from __future__ import annotations

import re
import time
from datetime import datetime

from webui.conversation_list import ago, conversation_list, found_list
from webui.store import Conversation, Found

NOW = datetime(2026, 11, 24, 12, 0).timestamp()
DAY = 86400


def made(title: str, days: float = 0, **more: object) -> Conversation:
    return Conversation(title.lower() or "none", title, 0, NOW - days * DAY, **more)  # type: ignore[arg-type]


def test_groups_are_the_days_of_this_computer() -> None:
    rows = [made("P", 90, pinned=True), made("A", 0.4), made("B", 0.6), made("C", 6),
            made("D", 20), made("E", 60), made("F", 400)]  # fmt: skip
    html = conversation_list(rows, "c", now=NOW)
    assert re.findall("<h4>(.*?)</h4>", html) == [
        "Pinned", "Today", "Yesterday", "Last 7 days", "Last 30 days", "Older",
    ]  # fmt: skip
    assert re.findall('row current" data-row="(.*?)"', html) == ["c"]
    assert "Show more" not in html and "Deleted" not in html
    assert "Show more" in conversation_list(rows, "", further=True)


def test_nothing_in_a_title_or_a_text_becomes_markup() -> None:
    evil = '"><script>alert(1)</script>'
    told = [
        conversation_list([made(evil)], "", [made(evil)]),
        found_list([Found(made(evil), ((evil, True), ("<b>", False)))], "", evil),
        found_list([], "", evil),
    ]
    for html in told:
        assert "<script" not in html and "<b>" not in html and '""' not in html


def test_an_untitled_one_can_be_clicked_and_an_empty_list_says_so() -> None:
    assert ">New chat</span>" in conversation_list([made("")], "")
    assert "Your conversations appear here" in conversation_list([], "")
    assert "Deleted (1)" in conversation_list([], "", [made("gone")])


def test_ages_are_short() -> None:
    told = [ago(NOW - seconds, NOW) for seconds in (0, 59, 60, 3600, DAY, 6.9 * DAY, 8 * DAY)]
    assert told == ["now", "now", "1 min", "1 h", "1 d", "6 d", "16 Nov"]
    assert ago(time.time()) == "now"
