"""A chat shown to others: the owner's browser, a visitor's browser, a tunnel that ends here."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.test_chat import send, set_number
from tests.served import Served, serving
from tests.tunnelled import environment, put_program, stand_ins, write_program

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script"),
]

Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
STORY = "Tell me a very long story about the sea."
PASSPHRASE = "#share-passphrase input, #share-passphrase textarea"
SIZES = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_program(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Served]:
    """A server whose tunnels end in the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(program.parents[2]).items():
            patch.setenv(name, value)
        with serving(tmp_path_factory.mktemp("laden") / "mein Zuhaüse", spare=False) as served:
            yield served


@pytest.fixture
def shop(house: Served, program: Path) -> Iterator[Served]:
    """The same server for every test: what one of them shares has ended before the next."""
    yield house
    with house.client() as client:
        client.post("/api/share/stop")
    write_program(program)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A visitor with a browser of its own. At the end: it asked nothing of any other host."""
    contexts, outside, errors = [], [], []

    def go(url: str, **options: object) -> Page:
        context = browser.new_context(**{"viewport": SIZES["wide"], **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: outside.append(r.url)
                if not r.url.startswith((url, "data:", "blob:")) else None)  # fmt: skip
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not outside and not errors, (outside, errors)


def share(page: Page) -> tuple[str, str]:
    """Share as an owner does; the address and the passphrase from the banner."""
    page.locator("#share-open").click()
    expect(page.locator(PASSPHRASE)).to_have_value(
        re.compile(r"^([a-z]+-){4}[a-z]+$"), timeout=20_000
    )
    page.locator("#share-start").click()
    banner = page.locator("#share-banner")
    expect(banner.locator(".address a")).to_be_visible(timeout=60_000)
    expect(page.locator("#share-dialog")).to_be_hidden()
    url = banner.locator(".address a").get_attribute("href")
    assert url
    return url, banner.locator(".passphrase code").inner_text()


def enter(page: Page, phrase: str) -> None:
    page.get_by_label("Passphrase").fill(phrase)
    page.get_by_role("button", name="Enter").click()


def say(page: Page, text: str) -> None:
    page.locator("#demo-box textarea").fill(text)
    page.locator("#demo-send").click()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.alone
@pytest.mark.model
def test_a_guest_asks_and_the_owner_stops(
    shop: Served, open_page: Open, visit: Open, picture: Picture
) -> None:
    page = open_page(shop, color_scheme="dark")
    url, phrase = share(page)
    [relay] = stand_ins(shop.process.pid)
    inner = int(relay.cmdline()[relay.cmdline().index("-l") + 1])
    guest = visit(url, color_scheme="light")
    expect(guest.get_by_label("Passphrase")).to_be_focused()
    picture(guest, "share-door")
    enter(guest, "river-candle")
    expect(guest.get_by_role("status")).to_contain_text("4 more tries")
    enter(guest, phrase.upper().replace("-", " "))
    expect(guest.locator("#demo-left")).to_contain_text("20 of 20 messages left · ends in 2 h")
    say(guest, "What is the capital of France?")
    expect(guest.locator("#demo-log .bot").last).to_contain_text("Paris", timeout=60_000)
    expect(guest.locator("#demo-left")).to_contain_text("19 of 20")
    expect(guest.locator("#demo-box textarea")).to_have_value("")
    picture(guest, "share-demo-light")
    guest.reload()  # the chat belongs to the visitor, not to the page
    expect(guest.locator("#demo-log .bot").last).to_contain_text("Paris")
    for tab in ("Models", "Images", "Chat"):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator("#share-banner .count")).to_contain_text(
            re.compile(r"ends in 1 h 5\d min · 1 visitor \(1 here\) · 1 message$")
        )
    expect(page.locator("#conversations")).not_to_contain_text("capital")
    expect(page.locator("#chat-send")).to_be_in_viewport()
    page.get_by_text("QR code").click()
    assert page.locator(".qr img").evaluate("i => i.complete && i.naturalWidth") > 100
    picture(page, "share-banner-dark")
    started = time.monotonic()
    page.locator("#share-banner button.stop").click()
    guest.get_by_text("This demo has ended.").wait_for()
    assert time.monotonic() - started < 1.0
    while is_open(inner) or relay.is_running():
        assert time.monotonic() - started < 1.2
        time.sleep(0.01)
    expect(page.locator("#share-banner .share")).to_be_hidden()
    picture(guest, "share-ended")


def test_every_size_and_colour(
    shop: Served, open_page: Open, visit: Open, picture: Picture
) -> None:
    page = open_page(shop)
    url, phrase = share(page)
    guest = visit(url)
    for scheme in ("dark", "light"):
        for size, viewport in SIZES.items():
            for seen in (page, guest):  # loaded anew, by a browser that has the scripts
                seen.emulate_media(color_scheme=scheme)
                seen.set_viewport_size(viewport)  # type: ignore[arg-type]
            page.reload()
            expect(page.locator("#share-banner .count")).to_contain_text("visitor")
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
            picture(page, f"share-owner-{scheme}-{size}")
            guest.context.clear_cookies()
            guest.goto(url)
            expect(guest.get_by_label("Passphrase")).to_be_visible()
            picture(guest, f"share-door-{scheme}-{size}")
            enter(guest, phrase)
            expect(guest.locator("#demo-left")).to_contain_text("messages left")
            expect(guest.locator("#demo-send")).to_be_in_viewport()
            assert guest.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
            picture(guest, f"share-demo-{scheme}-{size}")


def test_a_used_up_quota_is_said(
    shop: Served, open_page: Open, visit: Open, picture: Picture
) -> None:
    page = open_page(shop)
    page.locator("#chat-model input").click()
    page.get_by_role("option", name="Echo").click()
    url, phrase = share(page)
    guest = visit(url)
    enter(guest, phrase)
    guest.locator("#demo-box").wait_for()
    for number in range(20):
        say(guest, f"This is number {number}.")
        expect(guest.locator("#demo-left")).to_contain_text(f"{19 - number} of 20", timeout=20_000)
        expect(guest.locator("#demo-log .bot").last).to_contain_text(f"number {number}.")
        expect(guest.locator("#demo-send")).to_be_visible()
    say(guest, "One more?")
    expect(guest.locator("#demo-status")).to_contain_text(
        "You have used all 20 messages of this demo. Ask its owner if you would like more."
    )
    expect(guest.locator("#demo-box textarea")).to_have_value("One more?")
    picture(guest, "share-quota")
    expect(page.locator("#share-banner .count")).to_contain_text("20 messages")


@pytest.mark.model
def test_the_owner_goes_first_and_the_guest_sees_the_position(
    shop: Served, open_page: Open, visit: Open
) -> None:
    page = open_page(shop)
    set_number(page, "chat-temperature", 0)  # the answers are as long as they were the last time
    set_number(page, "chat-max-new-tokens", 1500)
    url, phrase = share(page)
    guest = visit(url)
    enter(guest, phrase)
    guest.locator("#demo-box").wait_for()
    send(page, STORY)
    expect(page.locator("#chat-log .bot").last).to_contain_text(" ", timeout=60_000)
    say(guest, "What is the capital of France?")
    expect(guest.locator("#demo-status")).to_contain_text("Busy: position 1")
    page.locator("#chat-stop").click()
    expect(guest.locator("#demo-log .bot").last).to_contain_text("Paris", timeout=60_000)
    say(guest, STORY)
    guest.locator("#demo-stop").click()
    expect(guest.locator("#demo-send")).to_be_visible()
    expect(guest.locator("#demo-log .user").last).to_contain_text(STORY)


def test_a_tunnel_that_cannot_be_made_or_breaks_is_told(
    shop: Served, open_page: Open, program: Path, picture: Picture
) -> None:
    page = open_page(shop)
    banner = page.locator("#share-banner")
    write_program(program, "refused")
    page.locator("#share-open").click()
    expect(page.locator(PASSPHRASE)).to_have_value(re.compile("-"))
    page.locator("#share-start").click()
    for place in (page.locator("#share-status"), banner.locator(".said")):
        expect(place).to_contain_text("The share server refused the tunnel", timeout=60_000)
        expect(place).to_contain_text("Share on the local network instead.")
    page.locator("#share-close").click()
    picture(page, "share-refused")
    write_program(program, "dies")
    banner.get_by_role("button", name="Try again").click()
    expect(banner.locator(".said")).to_contain_text("ended by itself", timeout=20_000)
    write_program(program)
    banner.get_by_role("button", name="Try again").click()
    expect(banner.locator(".address a")).to_be_visible(timeout=20_000)
    [relay] = stand_ins(shop.process.pid)
    relay.kill()
    expect(banner.locator(".said")).to_contain_text("The tunnel has broken")
    expect(banner.get_by_role("button", name="Share on the local network")).to_be_visible()
    picture(page, "share-broken")
    banner.get_by_role("button", name="Close").click()
    expect(banner.locator(".share")).to_be_hidden()


@pytest.mark.alone
def test_from_the_command_line_until_a_kill(tmp_path: Path, visit: Open) -> None:
    program = put_program(tmp_path / "hub")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(program.parents[2]).items():
            patch.setenv(name, value)
        with serving(
            tmp_path / "home", "--share", "chat", "--model", "echo", spare=False
        ) as served:
            url, phrase = wait_for_address(served)
            guest = visit(url)
            enter(guest, phrase)
            say(guest, "hello there")
            expect(guest.locator("#demo-log .bot").last).to_contain_text("hello there")
            [relay] = stand_ins(served.process.pid)
            os.kill(served.process.pid, 9)
            started = time.monotonic()
            while relay.is_running() and relay.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() - started < 1.0  # its watchdog sees the page's end
                time.sleep(0.01)
            guest.get_by_text("This demo cannot be reached.").wait_for()
            assert urlsplit(url).port and not is_open(int(urlsplit(url).port or 0))


def wait_for_address(served: Served) -> tuple[str, str]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = re.search(
            r"^Shared at (\S+) with the passphrase (\S+) until \d\d:\d\d$",
            served.log.read_text("utf-8"), re.MULTILINE,
        )  # fmt: skip
        if found:
            return found[1], found[2]
        time.sleep(0.05)
    raise AssertionError(served.log.read_text("utf-8"))
