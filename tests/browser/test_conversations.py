"""The panel of conversations: find, rename, pin, delete and undo, export, import."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.served import Served, serving
from webui.store import Store

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
DAY = 86400


def fill(home: Path, many: int = 130) -> None:
    """Conversations of the last months, the newest first in the list "Talk 0"."""
    home.mkdir(parents=True, exist_ok=True)
    now = [time.time() - many * DAY / 2]
    store = Store(home / "werkbank.db", lambda: now[0])
    for number in reversed(range(many)):
        made = store.new_conversation(f"Talk {number}").id
        store.add_message(made, "user", f"Question {number} about the lighthouse")
        answered = store.add_message(made, "assistant", "The keeper <b>Jürgen</b> lives there.")
        if number == 7:
            store.vote(answered.id, 1)
            store.pin(made)
        now[0] += DAY / 2
    store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("voll") / "mein Zuhaüse"
    fill(home)
    with serving(home, spare=False) as served:
        yield served


def row(page: Page, title: str):
    return page.locator("#conversations [data-row]").filter(
        has=page.locator(f".open[title='{title}']")
    )


def menu(page: Page, title: str, choice: str) -> None:
    row(page, title).locator(".menu").click()
    page.locator(".conversation-menu").get_by_text(choice, exact=True).click()


def bring(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#conversations-import").click()
    chooser.value.set_files(file)


def search(page: Page, words: str) -> None:
    page.locator("#conversations-search :is(input, textarea)").press_sequentially(words, delay=20)


def test_the_list_is_grouped_and_more_comes_on_demand(
    filled: Served, open_page: Open, picture: Picture
) -> None:
    for scheme in ("dark", "light"):
        page = open_page(filled, color_scheme=scheme, viewport={"width": 1280, "height": 800})
        expect(page.locator("#conversations [data-row]")).to_have_count(60)
        groups = page.locator("#conversations h4").all_inner_texts()
        assert groups[0] == "Pinned" and groups[-2:] == ["Last 7 days", "Last 30 days"]
        expect(page.locator("#conversations [data-row]").first).to_contain_text("Talk 7")
        page.wait_for_timeout(800)
        picture(page, f"conversations-{scheme}")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#conversations [data-row]")).to_have_count(120)
    assert page.locator("#conversations h4").all_inner_texts()[-1] == "Older"
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#conversations [data-row]")).to_have_count(130)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)


def test_a_search_finds_words_as_they_are_typed_and_marks_them(
    filled: Served, open_page: Open, picture: Picture
) -> None:
    page = open_page(filled, color_scheme="dark", viewport={"width": 1280, "height": 800})
    expect(page.locator("#conversations [data-row]")).to_have_count(60)
    search(page, "11 lighth")
    expect(page.locator("#conversations [data-row]")).to_have_count(1)
    expect(page.locator("#conversations mark")).to_have_text(["11", "lighthouse"])
    picture(page, "conversations-search")
    page.locator("#conversations .open").click()
    expect(page.locator("#chat-log .user")).to_contain_text("Question 11")
    expect(page.locator("#conversations .current")).to_contain_text("Talk 11")
    for typed in ('jurgen" AND (', "zebra <i>"):
        page.locator("#conversations-search :is(input, textarea)").fill(typed)
        page.wait_for_timeout(300)
    expect(page.locator("#conversations .empty")).to_have_text("Nothing has “zebra <i>” in it.")
    page.locator("#conversations-search :is(input, textarea)").fill("")
    expect(page.locator("#conversations [data-row]")).to_have_count(60)


def test_rename_and_pin(filled: Served, open_page: Open, picture: Picture) -> None:
    page = open_page(filled, color_scheme="light", viewport={"width": 1280, "height": 800})
    row(page, "Talk 20").locator(".menu").click()
    picture(page, "conversations-menu")
    box = page.locator(".conversation-menu input")
    expect(box).to_have_value("Talk 20")
    box.fill('Grüße "von" <b>hier</b>')
    box.press("Enter")
    renamed = page.locator("#conversations [data-row]", has_text='Grüße "von" <b>hier</b>')
    expect(renamed).to_have_count(1)
    renamed.locator(".menu").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.locator("#conversations [data-pinned='1']")).to_have_count(2)
    expect(page.locator("#conversations [data-row]").nth(1)).to_contain_text("Grüße")
    renamed.locator(".open").dblclick()
    box.fill("Talk 20")
    page.get_by_role("button", name="Rename").click()
    menu(page, "Talk 20", "Unpin")
    expect(page.locator("#conversations [data-pinned='1']")).to_have_count(1)


def test_the_keyboard_reaches_everything(filled: Served, open_page: Open) -> None:
    page = open_page(filled)
    row(page, "Talk 7").locator(".open").focus()
    page.keyboard.press("ArrowDown")
    expect(row(page, "Talk 0").locator(".open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#chat-log .user")).to_contain_text("Question 0")
    page.keyboard.press("F2")
    expect(page.locator(".conversation-menu input")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="Pin", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".conversation-menu")).to_be_hidden()
    row(page, "Talk 0").locator(".open").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".conversation-menu")).to_be_visible()


def test_what_was_deleted_comes_back(filled: Served, open_page: Open, picture: Picture) -> None:
    page = open_page(filled, color_scheme="dark", viewport={"width": 1280, "height": 800})
    row(page, "Talk 30").locator(".open").click()
    expect(page.locator("#chat-log .user")).to_contain_text("Question 30")
    menu(page, "Talk 30", "Delete")
    said = page.locator("#conversations-said")
    expect(said).to_contain_text("“Talk 30” was deleted.")
    expect(page.locator("#chat-log .user")).to_have_count(0)  # the open one is closed
    expect(row(page, "Talk 30")).to_have_count(0)
    picture(page, "conversations-deleted")
    said.get_by_role("button", name="Undo").click()
    expect(row(page, "Talk 30")).to_have_count(1)
    expect(said).to_be_hidden()
    menu(page, "Talk 30", "Delete")
    expect(said.locator(".toast")).to_be_hidden(timeout=12_000)
    page.locator("#conversations .deleted summary").click()
    picture(page, "conversations-fold")
    page.get_by_role("button", name="Restore Talk 30").click()
    expect(row(page, "Talk 30")).to_have_count(1)


def test_what_is_erased_is_gone_for_good_after_a_question(filled: Served, open_page: Open) -> None:
    page = open_page(filled)
    menu(page, "Talk 40", "Delete")
    page.locator("#conversations .deleted summary").click()
    erase = page.get_by_role("button", name="Erase Talk 40 for good")
    erase.click()  # Playwright answers the question with no
    expect(erase).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    erase.click()
    expect(erase).to_have_count(0)
    db = sqlite3.connect(filled.home / "werkbank.db")
    assert (
        db.execute("SELECT count(*) FROM conversations WHERE title = 'Talk 40'").fetchone()[0] == 0
    )
    db.close()


def test_export_and_import(filled: Served, open_page: Open, tmp_path: Path) -> None:
    page = open_page(filled)
    saved = {}
    for choice, ending in (("Save as Markdown", "md"), ("Save as JSON", "json")):
        with page.expect_download() as download:
            menu(page, "Talk 7", choice)
        assert download.value.suggested_filename == f"Talk 7.{ending}"
        saved[ending] = tmp_path / f"7.{ending}"
        download.value.save_as(saved[ending])
    assert "# Talk 7" in saved["md"].read_text("utf-8")
    assert json.loads(saved["json"].read_text("utf-8"))["format"] == "werkbank-conversations"
    bring(page, saved["json"])
    expect(page.locator("#conversations-said")).to_contain_text(
        "1 conversation came in, 2 messages."
    )
    expect(row(page, "Talk 7")).to_have_count(2)


def test_a_thousand_conversations_leave_and_come_back_with_progress(
    tmp_path: Path, open_page: Open, picture: Picture
) -> None:
    home = tmp_path / "home"
    fill(home, 1000)
    with serving(home, spare=False) as served:
        page = open_page(served, color_scheme="dark", viewport={"width": 1280, "height": 800})
        expect(page.locator("#conversations [data-row]")).to_have_count(60)
        with page.expect_download() as download:
            page.locator("#conversations-export").click()
            expect(page.locator("#conversations-said")).to_contain_text(
                re.compile("Exporting [0-9,]+ of 1,000")
            )
            picture(page, "conversations-exporting")
        file = tmp_path / "all.jsonl"
        download.value.save_as(file)
        assert len(file.read_text("utf-8").splitlines()) == 1000
        expect(page.locator("#conversations-said")).to_contain_text("1,000 exported")
        with file.open("a", encoding="utf-8") as more:
            more.write('{"conversations": [{"from": "robot", "value": "x"}]}\n')
        bring(page, file)
        said = page.locator("#conversations-said")
        expect(said).to_contain_text(re.compile("[0-9]+ came in"))
        expect(said).to_contain_text(
            "1,000 conversations came in, 2,000 messages. 1 entry was left out.", timeout=60_000
        )
        said.locator("summary").click()
        expect(said.locator("pre")).to_contain_text('Entry 1,001: The "from" of turn 1 is "robot"')
        picture(page, "conversations-imported")
        bring(page, file)
        expect(said).to_contain_text(re.compile("[0-9]+ came in"))
        page.locator("#conversations-cancel").click()
        expect(said).to_contain_text(re.compile("Stopped. [0-9]+ conversations came in"))
        expect(page.locator("#conversations-cancel")).to_be_hidden()


def test_a_file_that_is_none_is_refused(filled: Served, open_page: Open, tmp_path: Path) -> None:
    page = open_page(filled)
    broken = tmp_path / "broken.json"
    broken.write_text('{"conversations": [')
    bring(page, broken)
    expect(page.locator("#conversations-said [role=alert]")).to_have_text(
        re.compile(r"This file is not JSON \(.*\)\. Nothing was brought in\.")
    )


def test_on_a_phone_the_panel_fits(filled: Served, open_page: Open, picture: Picture) -> None:
    page = open_page(filled, viewport={"width": 390, "height": 844}, color_scheme="light")
    expect(page.locator("#conversations [data-row]")).to_have_count(60)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    row(page, "Talk 7").first.locator(".menu").click()
    box = page.locator(".conversation-menu").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert box["y"] >= 0 and box["y"] + box["height"] <= 844
    picture(page, "conversations-phone")


def test_an_empty_list_says_what_will_be_there(
    tmp_path: Path, open_page: Open, picture: Picture
) -> None:
    with serving(tmp_path / "home", spare=False) as served:
        page = open_page(served, dies=True)  # the server ends before the page does
        expect(page.locator("#conversations .empty")).to_contain_text("Your conversations appear")
        page.locator("#conversations-export").click()
        expect(page.locator("#conversations-said")).to_contain_text("There is nothing to export.")


@pytest.mark.alone
def test_another_programs_lock_is_said_and_the_page_stays_quick(
    filled: Served, open_page: Open
) -> None:
    page = open_page(filled)
    expect(page.locator("#conversations [data-row]")).to_have_count(60)
    other = sqlite3.connect(filled.home / "werkbank.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    menu(page, "Talk 3", "Pin")
    began = time.monotonic()
    assert filled.health()["status"] == "ok"
    assert time.monotonic() - began < 1.0
    expect(page.locator("#conversations-said [role=alert]")).to_contain_text(
        "Another program holds the file of the conversations", timeout=8_000
    )
    other.execute("ROLLBACK")
    other.close()
    menu(page, "Talk 50", "Pin")
    expect(page.locator("#conversations-said [role=alert]")).to_have_count(0)
