"""A real Chromium. Every page proves that nothing was asked of another host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from tests.served import Served, find_chromium

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
HARMLESS = ("Failed to load resource", "Content Security Policy")
PICTURES = Path(__file__).parent / "screenshots"
# Other tests run beside these. What is promised in seconds says so, and is marked `alone`.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")  # not longer: Playwright's loop would be in the way of asyncio.run
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if not path:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Profile:
    """What a person's browser keeps. It is emptied after each test, all but the files it has read
    of Gradio: a page that has them opens in two thirds of the time."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.blank = context.new_page()
        self.protocol = context.new_cdp_session(self.blank)

    def empty(self, origins: set[str]) -> None:
        for page in self.context.pages:
            if page != self.blank:
                page.close()
        for origin in origins:
            kinds = {"origin": origin, "storageTypes": "cookies,local_storage,indexeddb"}
            self.protocol.send("Storage.clearDataForOrigin", kinds)
        self.context.clear_cookies()


@pytest.fixture(scope="module")
def profiles(browser: Browser) -> Callable[..., Profile]:
    """The n-th profile with these options: pages of one test share none, those of several do."""
    made: dict[tuple[int, str], Profile] = {}

    def take(n: int, options: dict[str, object]) -> Profile:
        key = n, repr(sorted(options.items()))
        if key not in made:
            made[key] = Profile(browser.new_context(**options))  # type: ignore[arg-type]
        return made[key]

    return take


@pytest.fixture
def open_page(profiles: Callable[..., Profile]) -> Iterator[Callable[..., Page]]:
    """Open a page of a server. At the end: no request left the machine, no script failed."""
    outside: list[str] = []
    errors: list[str] = []
    origins: set[str] = set()
    used: list[Profile] = []

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
        profile = profiles(len(used), {"viewport": {"width": 1440, "height": 810}, **options})
        used.append(profile)
        origins.add(served.base)
        page = profile.context.new_page()

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
    for profile in used:
        profile.empty(origins)
    assert not outside, outside
    assert not errors, errors


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Leave a screenshot that a person can look at."""

    def take(page: Page, name: str) -> None:
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=str(PICTURES / f"{name}.png"))

    return take
