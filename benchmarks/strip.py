"""What the GPU strip costs the server: the page shown against the page hidden."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks import browser
from benchmarks.measure import Bar, Plan, Row, cpu_seconds
from benchmarks.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

CPU = Bar("GPU strip: server CPU shown minus hidden, of a core", 1.0, " %")
REQUESTS = Bar("GPU strip: requests of a hidden page", 0, digits=0)
BARS = (CPU, REQUESTS)
CALM = 3.0  # seconds after a change, and after the page was opened, before the counting begins


def measure(plan: Plan) -> Iterator[Row]:
    """Hidden, shown, shown, hidden, each for half of the time: what drifts meets both alike."""
    with (
        serving(plan.home("strip")) as served,
        browser.browsing() as chromium,
        browser.opened(chromium, served) as page,
    ):
        served.settle()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        used: dict[str, list[float]] = {"visible": [], "hidden": []}
        counted: dict[str, list[str]] = {"visible": [], "hidden": []}
        for state in ("hidden", "visible", "visible", "hidden"):
            percent, urls = watched(page, served.pid, state, plan.seconds / 2, asked)
            used[state].append(percent)
            counted[state] += urls
    shown, hidden = statistics.mean(used["visible"]), statistics.mean(used["hidden"])
    polls = len(counted["visible"])
    yield CPU.row(
        shown - hidden,
        f"shown {shown:.2f} % with {polls} requests, hidden {hidden:.2f} %, "
        f"{plan.seconds:.0f} s each",
        shown_percent=used["visible"], hidden_percent=used["hidden"],
    )  # fmt: skip
    yield REQUESTS.row(
        len(counted["hidden"]),
        ", ".join(sorted(set(counted["hidden"]))) or f"in {plan.seconds:.0f} s",
    )


def watched(
    page: Page, pid: int, state: str, seconds: float, asked: list[str]
) -> tuple[float, list[str]]:
    """Percent of a core that the server used, and what the page asked for meanwhile."""
    page.evaluate(browser.SEEN, state)
    page.wait_for_timeout(1000 * CALM)
    asked.clear()
    before = cpu_seconds(pid)
    page.wait_for_timeout(1000 * seconds)
    return 100 * (cpu_seconds(pid) - before) / seconds, list(asked)
