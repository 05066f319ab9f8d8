"""Chat as a user has it: type, read, stop, reload; and what happens when things die."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import APIResponse, Page, Request, Route, expect

from tests.served import Served, serving

pytestmark = pytest.mark.browser

STARTER = "starter:smollm2-135m-instruct"
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


def send(page: Page, text: str) -> None:
    page.locator("#chat-box textarea").fill(text)
    page.locator("#chat-send").click()


def choose_model(page: Page, title: str) -> None:
    """Choose as a person does, who sees the model's own settings appear before changing one."""
    box = page.locator("#chat-model input")
    if title in box.input_value():
        return
    box.click()
    with page.expect_response(
        lambda r: "/run/predict" in r.url and settings_asked(r.request)
    ) as got:
        page.get_by_role("option", name=title).click()
    got.value.finished()
    page.wait_for_timeout(200)  # until they are drawn
    expect(box).to_have_value(re.compile(re.escape(title)))


def settings_asked(request: Request) -> bool:
    return len(request.post_data_json["data"]) == 1  # the model's name alone


def set_number(page: Page, name: str, value: float) -> None:
    """As often as the page still sets it by itself: Gradio does once more after it has drawn it,
    some 50 ms later on a quiet machine."""
    box = page.locator(f"#{name} input[type=number]")
    box.wait_for()
    for _ in range(10):
        page.wait_for_timeout(200)
        if box.input_value() == str(value):
            break
        box.fill(str(value))
        box.blur()


def answer(page: Page) -> str:
    bots = page.locator("#chat-log .bot")
    return bots.last.inner_text() if bots.count() else ""


def wait_for_words(page: Page, characters: int, seconds: float = 30) -> str:
    deadline = time.monotonic() + seconds
    while len(answer(page)) < characters:
        status = page.locator("#chat-status")
        assert time.monotonic() < deadline, f"only {answer(page)!r}, {status.inner_text()!r}"
        time.sleep(0.05)
    return answer(page)


def start_long_answer(page: Page) -> None:
    set_number(page, "chat-max-new-tokens", 1500)
    send(page, "Tell me a very long story about a lighthouse keeper and the sea.")
    wait_for_words(page, 40)


def test_the_first_look(server: Served, open_page: Open, picture: Picture) -> None:
    for scheme in ("dark", "light"):
        page = open_page(server, color_scheme=scheme)
        expect(page.locator("#gpu-strip")).to_contain_text(re.compile("CPU|GPU"))
        expect(page.locator("#chat-model-status")).to_contain_text("on disk")
        page.wait_for_timeout(2500)
        picture(page, f"chat-{scheme}")
        titles = [t.inner_text() for t in page.get_by_role("tab").all()]
        assert titles == ["Chat", "Fine-tune", "Images", "Multimodal", "Speech", "Models"]


def test_a_phone_needs_no_sideways_scrolling(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(server, viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#chat-send")).to_be_in_viewport()
    picture(page, "chat-phone")


@pytest.mark.parametrize("tab", ["Multimodal", "Speech"])
def test_a_tab_to_come_says_so_and_offers_nothing(
    server: Served, open_page: Open, tab: str
) -> None:
    page = open_page(server)
    page.get_by_role("tab", name=tab).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    expect(panel).to_contain_text("Not part of this version yet")
    assert panel.get_by_role("button").count() == 0


@pytest.mark.model
def test_the_capital_of_france_streamed_with_its_figures(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(server, color_scheme="dark")
    send(page, "What is the capital of France?")
    expect(page.locator("#chat-log .bot").last).to_contain_text("Paris", timeout=60_000)
    expect(page.locator("#chat-log .bot .usage").last).to_have_text(
        re.compile(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s · prompt \d+"),
        timeout=20_000,
    )
    expect(page.locator("#chat-box textarea")).to_have_value("")
    expect(page.locator("#chat-model-status")).to_contain_text(
        re.compile(r"Ready · loaded in .* s")
    )
    expect(page.locator("#conversations .current")).to_contain_text("What is the capital")
    picture(page, "chat-answer")


@pytest.mark.model
def test_stop_keeps_the_text_and_regenerate_writes_another(server: Served, open_page: Open) -> None:
    page = open_page(server)
    start_long_answer(page)
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("stopped")
    kept = answer(page)
    set_number(page, "chat-temperature", 1.2)
    expect(page.locator("#chat-send")).to_be_visible()
    page.locator("#chat-log .act-retry").last.click()
    expect(page.locator("#chat-stop")).to_be_visible()
    wait_for_words(page, 40)
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("stopped")
    assert page.locator("#chat-log .bot").count() == 1 and answer(page) != kept


@pytest.mark.model
def test_a_reload_and_a_second_tab_find_the_running_answer(server: Served, open_page: Open) -> None:
    page = open_page(server, dies=True)
    start_long_answer(page)
    worker = server.worker(STARTER)
    worker.suspend()  # so that the answer surely outlasts both pages' opening
    before = answer(page)
    page.reload()
    page.get_by_role("tab", name="Chat").wait_for()
    after = wait_for_words(page, len(before))
    assert after.startswith(before[:30])
    expect(page.locator("#chat-stop")).to_be_visible()
    second = page.context.new_page()
    second.goto(server.base)
    assert wait_for_words(second, len(after)).startswith(before[:30])
    worker.resume()
    second.locator("#chat-stop").click()  # stop in one is stop in the other
    for each in (page, second):
        expect(each.locator("#chat-log .bot .usage").last).to_contain_text("stopped")


@pytest.mark.model
def test_an_answer_that_nobody_watches_is_stopped_and_kept(server: Served, open_page: Open) -> None:
    page = open_page(server, dies=True)
    start_long_answer(page)
    written = answer(page)
    page.goto("about:blank")
    deadline = time.monotonic() + 20
    while server.health()["gate"]["running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.health()["gate"]["running"] == 0
    page.goto(server.base)
    expect(page.locator("#chat-log .bot")).to_contain_text("nobody was watching")
    assert answer(page).startswith(written[:30])


@pytest.mark.alone
@pytest.mark.model
def test_a_killed_worker_is_a_sentence_within_a_second_and_the_next_message_works(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(server, color_scheme="dark")
    start_long_answer(page)
    written = answer(page)
    os.kill(server.worker(STARTER).pid, signal.SIGKILL)
    killed = time.monotonic()
    said = page.locator("#chat-log .bot .told.failed")
    expect(said).to_contain_text("killed from outside", timeout=1_000)
    assert time.monotonic() - killed < 1.0
    assert answer(page).startswith(written[:30])
    expect(page.locator("#chat-status details")).to_be_visible()
    expect(page.locator("#chat-send")).to_be_in_viewport()
    picture(page, "chat-worker-killed")
    send(page, "What is the capital of France?")
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("tokens/s", timeout=30_000)
    assert page.locator("#chat-log .bot").count() == 2


def test_markup_in_a_message_is_shown_harmless(server: Served, open_page: Open) -> None:
    page = open_page(server)
    choose_model(page, "Echo")
    send(
        page,
        'a <img src="http://192.0.2.1/x.png" onerror="window.hacked=1"> '
        "<script>hacked=1</script> ![p](http://192.0.2.1/y.png) [l](javascript:hacked=1) "
        "**bold** end",
    )
    expect(page.locator("#chat-log .bot").last).to_contain_text("end")
    expect(page.locator("#chat-log .bot strong").last).to_have_text("bold")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    hrefs = page.locator("#chat-log a").evaluate_all("links => links.map(a => a.href)")
    assert not [h for h in hrefs if h.startswith("javascript")]


@pytest.mark.parametrize(
    "text", ["Grüße aus Köln: süß, groß", "مرحبا بالعالم", "👩🏽‍🚀🇩🇪", "a\u202eb"]
)
def test_any_script_comes_back_as_it_was(server: Served, open_page: Open, text: str) -> None:
    page = open_page(server)
    choose_model(page, "Echo")
    send(page, text)
    expect(page.locator("#chat-log .bot").last).to_contain_text(text)


def test_an_empty_message_says_what_to_do(server: Served, open_page: Open) -> None:
    page = open_page(server)
    send(page, "   ")
    expect(page.locator("#chat-status")).to_contain_text(
        "The message is empty. Write something to send."
    )


def test_copying_takes_the_answer_without_its_figures(server: Served, open_page: Open) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    choose_model(page, "Echo")
    send(page, "copy me")
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("token")
    page.locator("#chat-log .bot-row button[aria-label='Copy message'], "
                 "#chat-log button[aria-label='Copy message']").last.click()  # fmt: skip
    assert page.evaluate("navigator.clipboard.readText()") == "copy me"


@pytest.mark.alone
def test_load_and_unload_say_time_and_memory(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(server, color_scheme="dark")
    choose_model(page, "Echo")
    page.get_by_role("button", name="How to load it").click()
    set_number(page, "chat-echo-load-seconds", 2)
    set_number(page, "chat-echo-ballast-mb", 200)
    page.locator("#chat-load").click()
    expect(page.locator("#chat-model-status [role=progressbar]")).to_be_visible()
    expect(page.locator("#chat-load-cancel")).to_be_visible()
    picture(page, "chat-loading")
    status = page.locator("#chat-model-status")
    expect(status).to_have_text(
        re.compile(r"Ready · loaded in [2-9]\.\d s · 0\.\d+ GB"), timeout=10_000
    )
    ready = size_in(status.inner_text())
    page.locator("#chat-unload").click()
    expect(status).to_have_text(re.compile(r"Unloaded: 0\.\d+ GB came back\."))
    assert abs(size_in(status.inner_text()) - ready) < 0.03  # the same figure, a second later


def size_in(text: str) -> float:
    """The gigabytes that a status line names."""
    return float(text.partition(" GB")[0].rpartition(" ")[2])


def test_a_load_can_be_cancelled(server: Served, open_page: Open) -> None:
    page = open_page(server)
    choose_model(page, "Echo")
    page.get_by_role("button", name="How to load it").click()
    set_number(page, "chat-echo-load-seconds", 60)
    page.locator("#chat-load").click()
    page.locator("#chat-load-cancel").click()
    expect(page.locator("#chat-model-status")).to_contain_text("The load was cancelled.")
    expect(page.locator("#chat-load-cancel")).to_be_hidden()


def test_a_broken_model_is_named_and_not_offered(
    server: Served, open_page: Open, picture: Picture
) -> None:
    folder = server.home / "models" / "halb"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)
    page = open_page(server, color_scheme="dark")
    choose_model(page, "halb")
    status = page.locator("#chat-model-status [role=alert]")
    expect(status).to_contain_text(". ")
    send(page, "hello")
    expect(page.locator("#chat-status [role=alert]")).to_contain_text(". ")
    picture(page, "chat-broken-model")
    assert server.health()["status"] == "ok"


@pytest.mark.alone
@pytest.mark.model
def test_after_a_killed_page_the_text_so_far_is_there(
    tmp_path: Path, open_page: Open, picture: Picture
) -> None:
    home = tmp_path / "home"
    with serving(home, spare=False) as first:
        page = open_page(first, dies=True)
        start_long_answer(page)
        time.sleep(0.5)
        worker = first.worker(STARTER)
        written = answer(page)
        os.kill(first.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        while worker.is_running() and worker.status() != "zombie":
            assert time.monotonic() - killed < 1.0
    page.goto("about:blank")
    with serving(home, spare=False) as second:
        page = open_page(second, dies=True)
        page.locator("#conversations button").first.click()
        expect(page.locator("#chat-log .bot")).to_contain_text("Werkbank ended while this was")
        kept = answer(page)
        assert kept.startswith(written[:30]) and len(kept) > len(written) * 0.5
        picture(page, "chat-after-kill")


@pytest.mark.model
def test_another_conversation_can_be_read_while_one_is_being_answered(
    server: Served, open_page: Open
) -> None:
    page = open_page(server)
    choose_model(page, "Echo")
    send(page, "the other one")
    expect(page.locator("#chat-log .bot .usage")).to_contain_text("token")
    page.locator("#chat-new").click()
    expect(page.locator("#chat-log .bot")).to_have_count(0)
    choose_model(page, "SmolLM2 135M Instruct (starter, GGUF)")
    start_long_answer(page)
    worker = server.worker(STARTER)
    worker.suspend()  # so that the answer surely outlasts the time after which lonely ones stop
    page.locator("#conversations button", has_text="the other one").first.click()
    expect(page.locator("#chat-log .bot")).to_contain_text("the other one")
    page.wait_for_timeout(4_500)
    assert server.health()["gate"]["running"] == 1
    worker.resume()
    page.wait_for_timeout(500)
    expect(page.locator("#chat-log .bot")).to_contain_text("the other one")
    page.locator("#conversations button", has_text="lighthouse").first.click()
    wait_for_words(page, 200)
    expect(page.locator("#chat-log .bot")).not_to_contain_text("nobody")


def test_stop_ends_a_worker_that_no_longer_reacts(server: Served, open_page: Open) -> None:
    page = open_page(server)
    start_long_answer(page)
    worker = server.worker(STARTER)
    worker.suspend()
    try:
        page.locator("#chat-stop").click()
        expect(page.locator("#chat-log .bot .told")).to_contain_text(
            "restarting the model", timeout=6_000
        )
        assert not worker.is_running() or worker.status() == "zombie"
    finally:
        if worker.is_running():
            worker.resume()


def test_a_message_elsewhere_waits_its_turn_while_another_is_answered(
    server: Served, open_page: Open
) -> None:
    page = open_page(server)
    start_long_answer(page)
    page.locator("#chat-new").click()
    expect(page.locator("#chat-log .bot")).to_have_count(0)
    send(page, "What is the capital of France?")
    expect(page.locator("#chat-status")).to_contain_text("Busy: position 1")
    page.locator("#conversations button", has_text="lighthouse").first.click()
    expect(page.locator("#chat-log .user").first).to_contain_text("lighthouse")
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-log .bot .usage")).to_contain_text("stopped")
    page.locator("#conversations button", has_text="capital").first.click()
    expect(page.locator("#chat-log .bot")).to_contain_text("Paris", timeout=20_000)


def test_what_is_typed_before_the_pages_first_answers_come_stays(
    server: Served, open_page: Open
) -> None:
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        """The model picker's own question at the start, which begins with its status line."""
        answer = route.fetch()
        data = route.request.post_data_json["data"]
        if data and str(data[0]).startswith('<div class="line'):
            held.append((route, answer))
        else:
            route.fulfill(response=answer)

    page = open_page(server, before=lambda page: page.route("**/run/predict*", hold))
    choose_model(page, "Echo")
    page.get_by_role("button", name="How to load it").click()
    set_number(page, "chat-echo-load-seconds", 6)
    assert held
    for route, answer in held:
        route.fulfill(response=answer)
    page.wait_for_timeout(500)  # until they are drawn
    expect(page.locator("#chat-echo-load-seconds input[type=number]")).to_have_value("6")
    expect(page.locator("#chat-model input")).to_have_value(re.compile("Echo"))
    page.unroute_all(behavior="ignoreErrors")


def test_a_reload_while_a_model_loads_goes_on_showing_it(server: Served, open_page: Open) -> None:
    page = open_page(server, dies=True)
    choose_model(page, "Echo")
    page.get_by_role("button", name="How to load it").click()
    set_number(page, "chat-echo-load-seconds", 12)
    page.locator("#chat-load").click()
    expect(page.locator("#chat-load-cancel")).to_be_visible()
    page.reload()
    expect(page.locator("#chat-load-cancel")).to_be_visible()
    expect(page.locator("#chat-model-status")).to_contain_text("Ready", timeout=40_000)


def test_the_api_is_not_disturbed_by_a_message_from_the_page(
    server: Served, open_page: Open
) -> None:
    page = open_page(server)
    choose_model(page, "Echo")
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-model-status")).to_contain_text("nloaded")
    body = {
        "model": "echo", "stream": True, "words": 60, "words_per_second": 20,
        "messages": [{"role": "user", "content": "x"}],
    }  # fmt: skip
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as s:
        lines = s.iter_lines()
        next(lines)
        send(page, "me too")
        rest = list(lines)
    assert rest[-2] == "data: [DONE]" or "data: [DONE]" in rest
    expect(page.locator("#chat-log .bot")).to_contain_text("me too", timeout=10_000)
