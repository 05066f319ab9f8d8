"""The page's own process: no libtorch in it, and how much memory it takes with a page open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

from benchmarks import browser
from benchmarks.measure import Bar, Plan, Row, slope
from benchmarks.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

TORCH = Bar("page process: mappings of libtorch", 0, digits=0)
RSS = Bar("page process: most RSS with a page open", 350, " MB", digits=0)
BARS = (TORCH, RSS)
SAMPLE = 5.0  # seconds
ANSWER = 60.0  # seconds between two messages sent through the page
MESSAGE = "Tell me something about the sea."
TOKENS = 48  # of each answer


def measure(plan: Plan) -> Iterator[Row]:
    """A page open on Chat, seen, its strip polling, and an answer of the default model a minute."""
    with (
        serving(plan.home("memory")) as served,
        browser.browsing() as chromium,
        browser.opened(chromium, served) as page,
    ):
        browser.set_number(page, "chat-max-new-tokens", TOKENS)
        at, megabytes, answers = watch(page, served.pid, 60 * plan.minutes, plan)
        libraries = [
            m.path for m in psutil.Process(served.pid).memory_maps() if "libtorch" in m.path
        ]
    yield TORCH.row(len(libraries), ", ".join(libraries) or f"after {answers} answers")
    late = [i for i, t in enumerate(at) if t >= min(600, at[-1] / 4)]  # the first answers fill it
    growth = slope([at[i] / 3600 for i in late], [megabytes[i] for i in late])
    yield RSS.row(
        max(megabytes),
        f"{plan.minutes:g} minutes, {answers} answers, {len(at)} samples: {megabytes[0]:.0f} MB at "
        f"first, {megabytes[-1]:.0f} at last, slope {growth:+.1f} MB an hour",
        minutes=plan.minutes, at_seconds=at, rss_mb=megabytes, slope_mb_per_hour=growth,
    )  # fmt: skip


def watch(page: Page, pid: int, seconds: float, plan: Plan) -> tuple[list[float], list[float], int]:
    """Seconds and megabytes of each sample, and how many answers there were."""
    process, began = psutil.Process(pid), time.monotonic()
    at, megabytes, answers = list[float](), list[float](), 0
    while (now := time.monotonic() - began) < seconds:
        if now >= answers * ANSWER and page.locator("#chat-send").is_visible():
            browser.send(page, MESSAGE)
            answers += 1
            plan.say(f"memory: minute {now / 60:.0f} of {seconds / 60:.0f}")
        at.append(now)
        megabytes.append(process.memory_info().rss / 2**20)
        page.wait_for_timeout(1000 * min(SAMPLE, max(0.1, seconds - now)))
    return at, megabytes, answers
