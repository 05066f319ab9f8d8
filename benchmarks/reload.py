"""A reload in the middle of an answer: how soon its text is back, and whether all of it is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks import browser
from benchmarks.measure import Bar, Plan, Row
from benchmarks.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

BACK = Bar("reload in an answer: its text back in the page", 1.0, " s")
LOST = Bar("reload in an answer: words lost or doubled", 0, "", digits=0)
BARS = (BACK, LOST)
RATE = 50  # words a second, as Echo writes them
WORDS = 400
# Each word once, with its number, so that one that is missing or doubled can be told.
MESSAGE = " ".join(f"w{i}." for i in range(WORDS))
HAS = """(least) => {
  const text = [...document.querySelectorAll('#chat-log .bot')].at(-1)?.innerText ?? '';
  return text.length >= least;
}"""


def measure(plan: Plan) -> Iterator[Row]:
    """From the call of `reload` to the moment at which the words shown before are shown again."""
    waits, wrong = [], 0
    with (
        serving(plan.home("reload"), ("benchmarks.paced_server",)) as served,
        browser.browsing() as chromium,
        served.client() as client,
    ):
        for number in range(plan.kills):
            made = client.post("/bench/conversation", params={"title": f"reload {number}"}).json()
            with browser.opened(chromium, served) as page:
                client.post("/bench/start", params={
                    "id": made["id"], "words": WORDS, "pace": RATE, "text": MESSAGE
                })  # fmt: skip
                page.locator(f'#conversations [data-id="{made["id"]}"]').first.click()
                page.wait_for_function(HAS, arg=150, timeout=60_000)
                shown = len(text_of(page))
                began = time.monotonic()
                page.reload(wait_until="commit")
                page.wait_for_function(HAS, arg=shown, timeout=60_000, polling=20)
                waits.append(time.monotonic() - began)
                page.locator("#chat-log .bot .usage").last.wait_for(timeout=60_000)
                wrong += errors_in(text_of(page))
    yield BACK.row(max(waits), f"the worst of {len(waits)}: "
                   f"{', '.join(f'{w:.2f}' for w in waits)}", seconds=waits)  # fmt: skip
    yield LOST.row(wrong, f"of {WORDS * len(waits):,} words in {len(waits)} answers")


def text_of(page: Page) -> str:
    return str(page.locator("#chat-log .bot").last.inner_text())


def errors_in(text: str) -> int:
    """Words that are missing or there twice."""
    seen = [int(n) for n in re.findall(r"w(\d+)\.", text)]
    return len(set(range(WORDS)) - set(seen)) + len(seen) - len(set(seen))
