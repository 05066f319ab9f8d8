"""Whether a model fits is seen before Load is pressed, and follows the load options."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_chat import STARTER
from tests.served import Served

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_line_follows_the_context_length(
    server: Served, open_page: Open, picture: Callable[[Page, str], None], scheme: str, width: int
) -> None:
    size = {"width": width, "height": 900}
    page = open_page(server, color_scheme=scheme, viewport=size, dies=True)
    status = page.locator("#chat-model-status")
    if any(worker["model"] == STARTER for worker in server.health()["workers"]):
        expect(status).to_contain_text("Ready")  # by an earlier test
        page.locator("#chat-unload").click()
        expect(status).to_contain_text("came back")
        page.reload()
    expect(status).to_contain_text("free: fits.")
    before = status.inner_text()
    page.locator("#chat-load-options").locator("button").first.click()
    box = page.locator("#chat-llama_cpp-context-length input[type=number]")
    box.fill("512")
    box.blur()
    expect(status).not_to_have_text(before)
    expect(status).to_contain_text("free: fits.")
    page.wait_for_timeout(1500)  # nothing that comes later takes it away
    expect(status).to_contain_text("free: fits.")
    picture(page, f"fit-{scheme}-{width}")
