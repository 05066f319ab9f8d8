"""A real Chromium with the real page in it, driven as a user would."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.measure import CannotRun
from benchmarks.server import Served
from webui.setup import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
VIEWPORT: Any = {"width": 1440, "height": 810}
# Pages stay "visible" under Playwright, so a hidden one has to be told so, as the browser would.
SEEN = """(state) => {
  for (const [name, value] of [["visibilityState", state], ["hidden", state === "hidden"]])
    Object.defineProperty(document, name, { value, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@contextmanager
def browsing() -> Iterator[Browser]:
    """Raises CannotRun where there is no Chromium or no playwright."""
    needs = "This row needs {}. `python launch.py test` installs it."
    if importlib.util.find_spec("playwright") is None:
        raise CannotRun(needs.format("the package playwright"))
    path = chromium.find()
    if not path:
        raise CannotRun(needs.format("a Chromium"))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, open on Chat and ready for a message, in a profile of its own."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        page = context.new_page()
        page.goto(served.link)
        page.locator("#chat-box textarea").wait_for()
        page.locator("#gpu-strip .card").first.wait_for()  # it polls
        page.locator("#chat-model-status .line").first.wait_for()  # the list of models is there
        yield page
    finally:
        context.close()


def send(page: Page, message: str) -> None:
    """Send a message; returns when its answer is under way."""
    page.locator("#chat-box textarea").fill(message)
    page.locator("#chat-box textarea").press("Enter")
    page.locator("#chat-stop").wait_for(state="visible", timeout=60_000)


def answered(page: Page, seconds: float = 120.0) -> str:
    """Wait for the end of the answer; the line below it ("400 tokens · 80.1 tokens/s · ...")."""
    page.locator("#chat-send").wait_for(state="visible", timeout=1000 * seconds)
    return page.locator("#chat-log .usage").last.inner_text()


def set_number(page: Page, name: str, value: float) -> None:
    """A setting in the form beside the chat, by the elem_id of its component."""
    box = page.locator(f"#{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


class MainThread:
    """How long a page's main thread has worked so far (CDP, Performance.getMetrics)."""

    def __init__(self, page: Page) -> None:
        self.cdp = page.context.new_cdp_session(page)
        self.cdp.send("Performance.enable")

    def seconds(self) -> float:
        metrics = self.cdp.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))
