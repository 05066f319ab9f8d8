"""A real Chromium. Every page proves that nothing was asked of another host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Response, sync_playwright

from tests.served import Served, find_chromium

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
HARMLESS = ("Failed to load resource", "Content Security Policy")
PICTURES = Path(__file__).parent / "screenshots"


@pytest.fixture(scope="module")  # not longer: Playwright's loop would be in the way of asyncio.run
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

    def opener(
        served: Served,
        path: str = "",
        *,
        dies: bool = False,
        before: Callable[[Page], None] = lambda page: None,
        **options: object,
    ) -> Page:
        """`dies`: the test kills the server or leaves the page, so broken connections are fine.
        `before` gets the page while it is still empty."""
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 810}, **options}  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()

        def ended(request: Request) -> None:
            # One that the page's own policy blocked never left the browser.
            blocked = "csp" in (request.failure or "").lower()
            if not blocked and not request.url.startswith((served.base, "data:", "blob:")):
                outside.append(f"{request.url} {request.failure}")

        def failed(text: str) -> None:
            if not dies and not any(known in text for known in HARMLESS):
                errors.append(text)

        def answered(response: Response) -> None:
            if response.status >= 500:
                failed(f"{response.status} {response.url}")

        page.on("response", answered)
        page.on("requestfinished", ended)
        page.on("requestfailed", ended)
        page.on("pageerror", lambda error: failed(str(error)))
        page.on("console", lambda m: failed(m.text) if m.type == "error" else None)
        before(page)
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
