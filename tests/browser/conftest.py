"""A real Chromium. Every page proves that nothing was asked of another host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.served import Served

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
PICTURES = Path(__file__).parent / "screenshots"


def find_chromium() -> str | None:
    named = os.environ.get("WERKBANK_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if not path:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page of a server. At the end: no request left the machine, no script failed."""
    outside: list[str] = []
    errors: list[str] = []
    contexts = []

    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    def opener(served: Served, path: str = "", **options: object) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 810}, **options}  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((served.base, "data:", "blob:")) else outside.append(r.url)
            ),
        )
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", console)
        page.goto(served.url + path)
        page.get_by_role("tab", name="Chat").wait_for()
        return page

    yield opener
    for context in contexts:
        context.close()
    assert not outside, outside
    assert not errors, errors


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Leave a screenshot that a person can look at."""

    def take(page: Page, name: str) -> None:
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=str(PICTURES / f"{name}.png"))

    return take
