"""A model's process killed in the middle of an answer: how soon the page says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

from benchmarks import browser
from benchmarks.measure import Bar, Plan, Row
from benchmarks.server import Served, serving
from benchmarks.starter import STORY

if TYPE_CHECKING:
    from playwright.sync_api import Page

CRASH = Bar("worker killed in an answer: sentence on the page", 1.0, " s")
BARS = (CRASH,)

SENTENCE = "ended unexpectedly"
WORDS_ARE_THERE = (
    "() => [...document.querySelectorAll('#chat-log .bot')].at(-1)?.innerText.length > 60"
)


def measure(plan: Plan) -> Iterator[Row]:
    """From just before `kill -9` to the moment at which Chromium shows the sentence; the worst."""
    waits = []
    with serving(plan.home("crash")) as served, browser.browsing() as chromium:
        for _ in range(plan.kills):
            with browser.opened(chromium, served) as page:
                seconds, said = kill_while_answering(served, page)
            waits.append(seconds)
    yield CRASH.row(
        max(waits),
        f"the worst of {len(waits)}: {', '.join(f'{w:.2f}' for w in waits)}; it says: {said}",
        seconds=waits,
    )


def kill_while_answering(served: Served, page: Page) -> tuple[float, str]:
    """Seconds until the sentence is seen, and the sentence."""
    browser.send(page, STORY)
    page.wait_for_function(WORDS_ARE_THERE, timeout=60_000)
    [pid] = [w["pid"] for w in served.health()["workers"] if w["kind"] == "model" and w["pid"]]
    sentence = page.locator("#chat-log").get_by_text(SENTENCE)
    began = time.monotonic()
    psutil.Process(pid).kill()
    sentence.wait_for(state="visible", timeout=30_000)
    return time.monotonic() - began, sentence.inner_text()
