"""Whether a model fits is seen before Load is pressed, and follows the load options."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_chat import STARTER, choose_model, set_number
from tests.hollow import write_7b
from tests.served import Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def settled(server: Served) -> bool:
    """Whether an earlier test left the model loaded, once its last answer has ended."""
    deadline = time.monotonic() + 20
    while True:
        states = [w["state"] for w in server.health()["workers"] if w["model"] == STARTER]
        if states in ([], ["ready"]):
            return bool(states)
        assert time.monotonic() < deadline, states
        time.sleep(0.2)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_line_follows_the_context_length(
    server: Served, open_page: Open, picture: Callable[[Page, str], None], scheme: str, width: int
) -> None:
    size = {"width": width, "height": 900}
    loaded = settled(server)
    page = open_page(server, color_scheme=scheme, viewport=size, dies=True)
    status = page.locator("#chat-model-status")
    if loaded:
        expect(status).to_contain_text("Ready")
        page.locator("#chat-unload").click()
        expect(status).to_contain_text(re.compile("came back|Not loaded"))
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


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_would_fit_is_a_button(
    small_card: Served, open_page: Open, picture: Callable[[Page, str], None], scheme: str,
    width: int,
) -> None:  # fmt: skip
    size = {"width": width, "height": 900}
    page = open_page(small_card, color_scheme=scheme, viewport=size)
    choose_model(page, "llama-7b")
    status = page.locator("#chat-model-status")
    expect(status).to_contain_text("of 7.5 GB free: fits.")
    page.locator("#chat-load-options").locator("button").first.click()
    kind = page.locator("#chat-transformers-quantisation input")
    kind.click()
    page.get_by_role("option", name="BF16").first.click()
    expect(status).to_contain_text("does not fit.")
    expect(status.locator(".fit.over")).to_be_visible()
    picture(page, f"no-fit-{scheme}-{width}")
    status.get_by_role("button", name=re.compile("^4-bit: ")).click()
    expect(kind).to_have_value(re.compile("NF4|4-bit"))
    expect(status).to_contain_text("of 7.5 GB free: fits.")
    expect(status.locator("button")).to_have_count(0)  # nothing that fits would lose less
    set_number(page, "chat-transformers-context-length", 1024)
    status.get_by_role("button", name=re.compile("^Best that fits: 4-bit, context 4,096")).click()
    expect(page.locator("#chat-transformers-context-length input")).to_have_value("4096")


@pytest.fixture(scope="module")
def small_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A bench that believes in a card of 8,192 MB, with a 7B model that is all headers."""
    home = tmp_path_factory.mktemp("small") / "home"
    write_7b(home / "models" / "llama-7b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WERKBANK_TEST_CARD_MB", "8192")
        with serving(home, spare=False) as served:
            yield served
