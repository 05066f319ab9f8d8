"""Gradio's page listens to one stream for all its events; none may get lost when that one ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.late_close import late_close
from tests.browser.test_chat import choose_model, send
from tests.served import Served

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def test_an_event_that_begins_while_the_stream_ends_is_heard(
    server: Served, open_page: Open
) -> None:
    port = urlsplit(server.url).port
    assert port
    with late_close(port) as late:
        page = open_page(replace(server, url=server.url.replace(f":{port}", f":{late}")), dies=True)
        page.locator("#chat-new").click()
        choose_model(page, "Echo")
        for number in range(4):
            send(page, f"is anybody there, {number}")
            said = page.locator("#chat-log .bot").nth(number)
            expect(said).to_contain_text(f"is anybody there, {number}", timeout=10_000)
