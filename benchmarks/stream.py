"""A long answer in one message: whether an update costs more at its end than at its beginning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import browser
from benchmarks.measure import Bar, CannotRun, Plan, Row, quarters, spread
from benchmarks.server import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORDS, PACE = 4000, 200.0  # tokens, tokens per second; the echo breaks a paragraph every 60
WARM_UP = 600  # tokens of an answer before: the page's scripts are compiled then
SERVER = Bar(f"{WORDS} tokens in a message: server CPU per update, last quarter / first", 1.3)
PAGE = Bar(f"{WORDS} tokens in a message: main thread per second, last quarter / first", 1.3)
BARS = (SERVER, PAGE)
SAMPLE = 0.25  # seconds between two looks at the page's main thread


def measure(plan: Plan) -> Iterator[Row]:
    """Nothing of the answer itself is left out: an answer before it has warmed the page up."""
    server, page = list[list[float]](), list[list[float]]()
    with browser.browsing() as chromium:
        for i in range(plan.streams):
            home = plan.home(f"stream-{i}")
            with serving(home, ("benchmarks.paced_server",)) as served:
                per_update, per_second = once(served, chromium, plan)
            server.append(per_update)
            page.append(per_second)
    yield judged(SERVER, server, "ms CPU per update")
    yield judged(PAGE, page, "ms per s")


def judged(bar: Bar, runs: list[list[float]], unit: str) -> Row:
    ratios = [run[3] / run[0] for run in runs]
    middle = [1000 * median(run[i] for run in runs) for i in range(4)]
    by_quarter = ", ".join(f"{value:.2f}" for value in middle)
    return bar.row(
        median(ratios),
        f"{by_quarter} {unit} in the four quarters; ratio of {len(runs)} runs {spread(ratios)}; "
        f"an answer of {WARM_UP} tokens before it as warm-up",
        quarters=runs,
    )


def once(served: Served, chromium: Any, plan: Plan) -> tuple[list[float], list[float]]:
    """By quarter of the time: CPU seconds of the server per update, main thread seconds per s."""
    with served.client() as client:
        warm, long = (
            client.post("/bench/conversation", params={"title": title}).json()["id"]
            for title in ("warm-up", "long answer")
        )
        with browser.opened(chromium, served) as page:
            follow(client, page, warm, WARM_UP)
            page.wait_for_timeout(2000)
            plan.say(f"stream: {WORDS} tokens at {PACE:.0f}/s")
            updates, at, busy = follow(client, page, long, WORDS)
            shown = page.locator("#chat-log .bot").last.inner_text()
        if len(shown.split()) < WORDS:
            raise CannotRun(f"The page shows {len(shown.split())} words of {WORDS}.")
    times, cpu, _ = zip(*updates, strict=True)
    plan.say(f"{len(updates)} updates")
    spent = quarters(times, cpu)
    made = quarters(times, range(len(times)))
    worked = quarters(at, busy)
    long_quarter = (at[-1] - at[0]) / 4
    return [s / m for s, m in zip(spent, made, strict=True)], [w / long_quarter for w in worked]


def follow(
    client: httpx.Client, page: Page, conversation: str, words: int
) -> tuple[list[tuple[float, float, int]], list[float], list[float]]:
    """Start the answer, open its conversation, and look on until it has all arrived.

    Returns the server's updates, and when the page's main thread had worked for how long.
    """
    thread = browser.MainThread(page)
    client.post("/bench/start", params={"id": conversation, "words": words, "pace": PACE})
    page.locator(f'#conversations [data-id="{conversation}"]').click()
    page.locator("#chat-stop").wait_for(state="visible")
    at, busy = list[float](), list[float]()
    began = time.monotonic()
    while page.locator("#chat-stop").is_visible():
        at.append(time.monotonic() - began)
        busy.append(thread.seconds())
        if at[-1] > 30 + 2 * words / PACE:
            raise CannotRun("The long answer did not end in time.")
        page.wait_for_timeout(1000 * SAMPLE)
    updates = client.get("/bench/state", params={"id": conversation}).json()["updates"]
    return updates, at, busy
