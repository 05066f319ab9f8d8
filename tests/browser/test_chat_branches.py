"""What can be done with a message, as a user does it: edit, branch, go on, delete, vote, attach."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_chat import (
    answer,
    choose_model,
    send,
    set_number,
    start_long_answer,
    wait_for_words,
)
from tests.served import Served
from webui.store import Store

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
USAGE = "#chat-log .bot .usage"


def ask(page: Page, text: str) -> None:
    """Send it and wait for the end of the answer."""
    before = page.locator("#chat-log .bot").count()
    send(page, text)
    expect(page.locator("#chat-log .bot")).to_have_count(before + 1)
    expect(page.locator("#chat-log .bot").last.locator(".acts.last .act-up")).to_have_count(
        1, timeout=30_000
    )


def press(page: Page, who: str, act: str, which: int = -1) -> None:
    button = page.locator(f"#chat-log .{who} .act-{act}").nth(which)
    button.hover()
    button.click()


def echo(server: Served, open_page: Open, **options: object) -> Page:
    page = open_page(server, **options)
    page.locator("#chat-new").click()
    choose_model(page, "Echo")
    return page


def test_edit_branch_and_reload(server: Served, open_page: Open, picture: Picture) -> None:
    page = echo(server, open_page, color_scheme="dark", dies=True)
    ask(page, "one")
    ask(page, "two")
    press(page, "user", "edit", 0)
    expect(page.locator("#chat-edit-note")).to_contain_text("Editing your message.")
    expect(page.locator("#chat-box textarea")).to_have_value("one")
    page.locator("#chat-box textarea").fill("eins")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-log .bot")).to_have_count(1)
    expect(page.locator("#chat-log .bot")).to_contain_text("eins")
    expect(page.locator("#chat-edit-note .line")).to_have_count(0)
    expect(page.locator("#chat-log .user .versions")).to_contain_text("2/2")
    ask(page, "zwei")
    picture(page, "chat-branch")
    press(page, "user", "show", 0)  # ‹
    expect(page.locator("#chat-log .user .versions")).to_contain_text("1/2")
    expect(page.locator("#chat-log .bot").last).to_contain_text("two")
    page.reload()
    expect(page.locator("#chat-log .bot").last).to_contain_text("two")
    press(page, "user", "show", 0)  # ›
    expect(page.locator("#chat-log .bot").last).to_contain_text("zwei")


def test_an_edited_answer_keeps_the_old_one_and_makes_a_pair(
    server: Served, open_page: Open
) -> None:
    page = echo(server, open_page)
    ask(page, "a plain answer")
    press(page, "bot", "edit")
    expect(page.locator("#chat-edit-note")).to_contain_text("Send saves your version")
    page.locator("#chat-box textarea").fill("a better answer")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-log .bot")).to_contain_text("a better answer")
    expect(page.locator(USAGE).first).to_contain_text("edited")
    expect(page.locator("#chat-log .bot .versions")).to_contain_text("2/2")
    store = Store(server.home / "werkbank.db")
    pairs = [(p.chosen, p.rejected) for p in store.pairs()]
    store.close()
    assert ("a better answer", "a plain answer") in pairs
    ask(page, "and on")
    expect(page.locator("#chat-log .bot").first).to_contain_text("a better answer")


def test_a_vote_and_a_delete_last_and_can_be_undone(server: Served, open_page: Open) -> None:
    page = echo(server, open_page, dies=True)
    ask(page, "good or bad")
    ask(page, "the second")
    press(page, "bot", "up", 0)
    expect(page.locator("#chat-log .act-up.on")).to_have_count(1)
    press(page, "bot", "down", 0)
    expect(page.locator("#chat-log .act-up.on")).to_have_count(0)
    page.reload()
    expect(page.locator("#chat-log .act-down.on")).to_have_count(1)
    press(page, "user", "delete", 1)
    expect(page.locator("#chat-log .bot")).to_have_count(1)
    page.locator("#chat-status .act-undo").click()
    expect(page.locator("#chat-log .bot")).to_have_count(2)
    press(page, "user", "delete", 0)
    expect(page.locator("#chat-log .user")).to_have_count(0)
    page.reload()
    expect(page.locator("#chat-box")).to_be_visible()
    expect(page.locator("#chat-log .user")).to_have_count(0)


@pytest.mark.model
def test_a_stopped_answer_goes_on_where_it_ends(server: Served, open_page: Open) -> None:
    page = open_page(server)
    page.locator("#chat-new").click()
    start_long_answer(page)
    page.keyboard.press("Escape")
    expect(page.locator(USAGE).last).to_contain_text("stopped")
    kept = answer(page).split("\n\n")[0]
    set_number(page, "chat-max-new-tokens", 30)
    press(page, "bot", "continue")
    wait_for_words(page, len(kept) + 60)
    expect(page.locator(USAGE).last).to_contain_text("30 tokens", timeout=30_000)
    assert answer(page).startswith(kept[:30]) and page.locator("#chat-log .bot").count() == 1


def test_the_keyboard_edits_leaves_and_begins(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    ask(page, "said last")
    box = page.locator("#chat-box textarea")
    box.focus()
    page.keyboard.press("ArrowUp")
    expect(box).to_have_value("said last")
    page.keyboard.press("Escape")
    expect(box).to_have_value("")
    expect(page.locator("#chat-edit-cancel")).to_be_hidden()
    page.keyboard.press("Alt+n")
    expect(page.locator("#chat-log .bot")).to_have_count(0)


def test_what_was_typed_survives_a_reload(server: Served, open_page: Open) -> None:
    page = echo(server, open_page, dies=True)
    box = page.locator("#chat-box textarea")
    box.fill("half a thought,\nand more")
    page.reload()
    expect(box).to_have_value("half a thought,\nand more")
    choose_model(page, "Echo")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-log .bot").last).to_contain_text("half a thought")
    expect(box).to_have_value("")
    page.reload()
    expect(page.locator("#chat-log .bot").last).to_contain_text("half a thought")
    expect(box).to_have_value("")


def test_on_a_phone_a_conversation_that_is_opened_is_in_sight(
    server: Served, open_page: Open
) -> None:
    page = echo(server, open_page, viewport={"width": 390, "height": 844})
    ask(page, "seen on a phone")
    page.locator("#chat-new").click()
    page.locator("#conversations [data-id]", has_text="seen on a phone").first.click()
    expect(page.locator("#chat-log")).to_be_in_viewport(ratio=0.5)


def test_buttons_that_a_model_writes_do_nothing(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    ask(page, "keep me")
    fake = '<button class="act act-delete m-{}">Delete</button>'
    ask(page, f'x <span class="acts last k01">{fake.format(1)}</span> {fake.format(2)}')
    expect(page.locator("#chat-log .bot").last).to_contain_text(
        '<button class="act act-delete m-1"'
    )
    expect(page.locator("#chat-log .bot .act-delete")).to_have_count(2)  # one of ours for each


def test_text_that_looks_like_html_is_shown_and_copied_as_it_is(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = echo(server, open_page, permissions=["clipboard-read", "clipboard-write"])
    said = (
        'vector<int> x; if (a<b && c>d) <div class="a">\n\n'
        "```html\n<p>hi</p>\n```\n\nend <!-- x -->"
    )
    ask(page, said)
    for who in ("user", "bot"):
        turn = page.locator(f"#chat-log .{who}").last
        for part in (
            "vector<int> x; if (a<b && c>d)",
            '<div class="a">',
            "<p>hi</p>",
            "<!-- x -->",
        ):
            expect(turn).to_contain_text(part)
    picture(page, "chat-html")
    page.locator("#chat-log .bot").last.hover()
    page.locator('#chat-log button[title*="opy"]').last.click()
    page.wait_for_timeout(300)
    assert page.evaluate("navigator.clipboard.readText()") == said


def test_a_fence_in_a_fence_leaves_the_buttons_outside(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    ask(page, "````md\n# title\n```\nin it\n````")
    ask(page, "1. so\n   ```py\n   x = 1")
    expect(page.locator("#chat-log .bot .act-delete")).to_have_count(2)


def test_what_was_typed_survives_an_edit(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    box = page.locator("#chat-box textarea")
    ask(page, "said")
    for leave in ("Escape", "Enter"):
        box.fill("a long draft")
        press(page, "user", "edit")
        expect(box).not_to_have_value("a long draft")
        box.focus()
        page.keyboard.press(leave)
        expect(box).to_have_value("a long draft")
    press(page, "user", "edit")
    expect(box).to_have_value("said")
    page.locator("#chat-new").click()
    expect(box).to_have_value("a long draft")
    box.fill("")
    page.locator("#conversations .open[data-id]").first.click()
    press(page, "user", "edit")
    expect(box).to_have_value("said")
    box.fill("said otherwise, at length")
    page.locator("#chat-new").click()  # an edit that is left so is no less typed
    expect(page.locator("#chat-status")).to_contain_text("Your edit was not sent")
    expect(box).to_have_value("said otherwise, at length")
    expect(page.locator("#chat-edit-cancel")).to_be_hidden()


def test_too_many_files_are_named_once(server: Served, open_page: Open, tmp_path: Path) -> None:
    page = echo(server, open_page)
    files = [tmp_path / f"n{i}.txt" for i in range(10)]
    for file in files:
        file.write_text("text", "utf-8")
    picked = page.locator("input[data-testid=Attach-upload-button]")
    picked.set_input_files([str(f) for f in files])
    expect(page.locator("#chat-files .file")).to_have_count(8, timeout=20_000)
    expect(page.locator("#chat-status [role=alert]")).to_have_count(1)
    expect(page.locator("#chat-status")).to_contain_text("then: n8.txt, n9.txt.")


def test_figures_and_buttons_stay_out_of_an_unfinished_code_block(
    server: Served, open_page: Open
) -> None:
    page = echo(server, open_page)
    ask(page, "Code:\n```python\nprint('never closed')")
    expect(page.locator("#chat-log .bot pre")).to_contain_text("never closed")
    expect(page.locator("#chat-log .bot pre .usage")).to_have_count(0)
    expect(page.locator(USAGE)).to_have_count(1)
    ask(page, "<think>hm, well")
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("token")


LANGUAGES = ("python", "cpp", "c", "js", "typescript", "php", "java", "go", "rust", "bash", "sql",
             "json", "yaml", "latex", "html", "css", "c++", "nosuch")  # fmt: skip


def test_code_in_every_language_is_drawn(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    ask(page, "\n".join(f"```{name}\nint x = 1; // {name}\n```" for name in LANGUAGES))
    expect(page.locator("#chat-log .bot pre")).to_have_count(len(LANGUAGES))


def test_two_browser_tabs_branch_and_lose_nothing(server: Served, open_page: Open) -> None:
    page = echo(server, open_page)
    ask(page, "common ground")
    other = page.context.new_page()
    other.goto(server.base)
    expect(other.locator("#chat-log .bot")).to_contain_text("common ground")
    choose_model(other, "Echo")
    ask(page, "from the first tab")
    ask(other, "from the second tab")
    expect(other.locator("#chat-log")).not_to_contain_text("first tab")
    expect(other.locator("#chat-log .user .versions").last).to_contain_text("2/2")
    press(other, "user", "show", -1)
    expect(other.locator("#chat-log .bot").last).to_contain_text("from the first tab")


def test_a_conversation_comes_back_with_its_model_and_settings(
    server: Served, open_page: Open
) -> None:
    page = echo(server, open_page)
    set_number(page, "chat-temperature", 1.35)
    page.locator("#chat-system textarea").fill("Be brief.")
    ask(page, "remember how this was asked")
    page.locator("#chat-new").click()
    choose_model(page, "SmolLM2 135M Instruct (starter, GGUF)")
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("0")
    page.locator("#conversations button", has_text="remember how").first.click()
    expect(page.locator("#chat-model input")).to_have_value(re.compile("Echo"))
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("1.35")
    expect(page.locator("#chat-system textarea")).to_have_value("Be brief.")


def test_presets_fill_the_settings_and_own_ones_are_kept(server: Served, open_page: Open) -> None:
    page = echo(server, open_page, dies=True)
    page.locator("#chat-preset input").click()
    page.get_by_role("option", name="Creative writing").click()
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("1.1")
    set_number(page, "chat-temperature", 0.45)
    page.get_by_role("button", name="Keep these settings").click()
    page.locator("#chat-preset-name input, #chat-preset-name textarea").fill("Meine Süße")
    page.locator("#chat-preset-save").click()
    expect(page.locator("#chat-preset-status")).to_contain_text("Saved as Meine Süße.")
    page.reload()
    page.locator("#chat-preset input").click()
    page.get_by_role("option", name="Meine Süße").click()
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("0.45")
    page.get_by_role("button", name="Keep these settings").click()
    page.locator("#chat-preset-delete").click()
    expect(page.locator("#chat-preset-status")).to_contain_text("is deleted")


@pytest.mark.model
def test_files_go_along_with_their_tokens(
    server: Served, open_page: Open, picture: Picture, tmp_path: Path
) -> None:
    page = open_page(server, color_scheme="dark")
    page.locator("#chat-new").click()
    ask(page, "hello")  # the model is loaded, so it counts
    note = tmp_path / "Notiz für Köln.md"
    note.write_text("# Colours\nThe secret colour is turquoise.\n" * 20, "utf-8")
    big = tmp_path / "big.txt"
    big.write_bytes(b"word " * 10_000_000)
    picked = page.locator("input[data-testid=Attach-upload-button]")
    picked.set_input_files([str(note)])
    chip = page.locator("#chat-files .file")
    expect(chip).to_contain_text(re.compile(r"Notiz für Köln.md.*\d+ tokens"), timeout=15_000)
    picked.set_input_files([str(big)])
    expect(page.locator("#chat-status [role=alert]")).to_contain_text(
        re.compile(r"big\.txt.*MB.*\. ."), timeout=30_000
    )
    expect(chip).to_have_count(1)
    picture(page, "chat-files")
    set_number(page, "chat-max-new-tokens", 20)
    ask(page, "What is the secret colour?")
    expect(page.locator("#chat-files .file")).to_have_count(0)
    expect(page.locator("#chat-log .user").last).to_contain_text("Notiz für Köln.md")
    expect(page.locator("#chat-log .user").last).not_to_contain_text("turquoise")
    expect(page.locator(USAGE).last).to_contain_text(re.compile(r"prompt [23]\d\d"))


@pytest.mark.model
def test_a_full_context_is_said_and_shown(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(server, color_scheme="dark")
    page.locator("#chat-new").click()
    page.get_by_role("button", name="How to load it").click()
    set_number(page, "chat-llama_cpp-context-length", 512)
    set_number(page, "chat-max-new-tokens", 10)
    for i in range(3):
        ask(page, f"{i} " + "word " * 150)
    expect(page.locator("#chat-meter")).to_contain_text(re.compile(r"of 512 tokens.*left out"))
    expect(page.locator("#chat-log .bot .told").last).to_contain_text("The context is full")
    expect(page.locator("#chat-log .user").first).to_contain_text("left out")
    picture(page, "chat-context-full")
    page.locator("#chat-load").click()  # later tests want the usual context again
    set_number(page, "chat-llama_cpp-context-length", 0)
    page.locator("#chat-load").click()
    expect(page.locator("#chat-model-status")).to_contain_text("Ready", timeout=20_000)


@pytest.mark.model
def test_side_by_side_and_the_vote_decides(
    server: Served, open_page: Open, picture: Picture
) -> None:
    page = echo(server, open_page, color_scheme="dark", dies=True)
    page.get_by_role("button", name="Side by side").click()
    page.locator("#chat-two input").check()
    page.locator("#chat-right-model input").click()
    page.get_by_role("option", name="SmolLM2 135M Instruct (starter, GGUF)").click()
    send(page, "What is the capital of France?")
    expect(page.locator("#chat-left .bot")).to_contain_text("What is the capital of France?")
    page.reload()  # two answers under way are found again
    expect(page.locator("#chat-vote-right")).to_be_enabled(timeout=30_000)
    expect(page.locator("#chat-right .bot")).to_contain_text(re.compile(r"France|Paris"))
    expect(page.locator("#chat-log .bot")).to_have_count(0)
    right = page.locator("#chat-right .bot").inner_text().split("\n")[0]
    picture(page, "chat-side-by-side")
    page.locator("#chat-vote-right").click()
    expect(page.locator("#chat-compare")).to_be_hidden()
    expect(page.locator("#chat-log .bot")).to_contain_text(right)
    expect(page.locator("#chat-log .act-up.on")).to_have_count(1)
    expect(page.locator("#chat-log .bot .versions")).to_contain_text("2/2")
    store = Store(server.home / "werkbank.db")
    pair = next(
        p for p in store.pairs() if p.prompt[-1].get("content") == "What is the capital of France?"
    )
    store.close()
    assert pair.chosen.startswith(right) and pair.rejected == "What is the capital of France?"
