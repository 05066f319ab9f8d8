"""Settings under the cog: the theme at once and after a reload, folders, cache, wrong values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.backends.models import crafted
from tests.browser.test_models import open_tab
from tests.served import Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WERKBANK_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        made = folder / "cache" / "converted" / "old"
        made.mkdir(parents=True)
        (made / "model.safetensors").write_bytes(b"x" * 5_000_000)
        with serving(folder / "home", spare=False) as server:
            yield server


def open_settings(open_page: Open, served: Served, **options: object) -> Page:
    page = open_page(served, **options)
    page.locator("#settings-open").click()
    expect(page.locator("#settings-dialog").first).to_be_visible()
    return page


def choose(page: Page, field: str, text: str) -> None:
    page.locator(f"#settings-{field} input").click()
    page.get_by_role("option", name=text, exact=True).click()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dialog_fits_the_screen(
    open_page: Open, picture: Picture, served: Served, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    page = open_settings(open_page, served, viewport=size, color_scheme=scheme)
    expect(page.locator("#settings-disk .places")).to_be_visible(timeout=15_000)
    box = page.locator("#settings-dialog").first.bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] <= 900
    picture(page, f"settings-{scheme}-{width}")


def test_the_theme_applies_at_once_and_after_a_reload_and_in_another_browser(
    open_page: Open, served: Served
) -> None:
    page = open_settings(open_page, served, color_scheme="light")
    body = page.locator("body")
    expect(body).not_to_have_class("dark")
    choose(page, "theme", "Dark")
    page.locator("#settings-save").click()
    expect(page.locator("#settings-said")).to_contain_text("Saved.")
    expect(body).to_have_class("dark")
    page.reload()
    page.get_by_role("tab", name="Chat").wait_for()
    expect(body).to_have_class("dark")
    page.locator("#settings-open").click()
    choose(page, "theme", "Light")
    page.locator("#settings-save").click()
    expect(body).not_to_have_class("dark")
    page.reload()
    page.get_by_role("tab", name="Chat").wait_for()
    page.wait_for_timeout(1500)
    expect(body).not_to_have_class("dark")
    page.locator("#settings-open").click()
    choose(page, "theme", "Dark")
    page.locator("#settings-save").click()
    expect(body).to_have_class("dark")
    other = open_page(served, color_scheme="light")
    expect(other.locator("body")).to_have_class("dark", timeout=10_000)
    other.locator("#settings-open").click()
    choose(other, "theme", "As the system")
    other.locator("#settings-save").click()
    expect(other.locator("body")).not_to_have_class("dark")
    kept = json.loads((served.home / "settings.json").read_text("utf-8"))
    assert kept["theme"] == "system"


def test_a_wrong_number_is_told_and_an_empty_box_means_by_itself(
    open_page: Open, served: Served
) -> None:
    page = open_settings(open_page, served)
    reserve = page.locator("#settings-reserve-gb input")
    reserve.fill("900")
    reserve.blur()
    page.locator("#settings-save").click()
    said = page.locator("#settings-said")
    expect(said.locator(".bad")).to_contain_text("Choose a value between 0 and 64")
    reserve.fill("2.5")
    reserve.blur()
    page.locator("#settings-save").click()
    expect(said).to_contain_text("Saved.")
    assert json.loads((served.home / "settings.json").read_text("utf-8"))["reserve_gb"] == 2.5
    reserve.fill("")
    reserve.blur()
    page.locator("#settings-save").click()
    expect(said.locator(".good")).to_be_visible()
    page.wait_for_timeout(500)
    assert json.loads((served.home / "settings.json").read_text("utf-8"))["reserve_gb"] is None


def test_models_of_an_allowed_folder_are_listed_and_go_with_it(
    open_page: Open, served: Served, tmp_path: Path
) -> None:
    shelf = tmp_path / "meine Modelle"
    shelf.mkdir()
    (shelf / "kleines.gguf").write_bytes(crafted.gguf())
    page = open_settings(open_page, served)
    field, said = (
        page.locator("#settings-folder textarea, #settings-folder input"),
        page.locator("#settings-said"),
    )
    for typed, told in (("models", "no whole path"), (str(tmp_path / "no"), "There is no folder")):
        field.fill(typed)
        page.locator("#settings-allow").click()
        expect(said.locator(".bad")).to_contain_text(told)
    field.fill(str(shelf))
    page.locator("#settings-allow").click()
    expect(page.locator("#settings-folders")).to_contain_text(str(shelf.resolve()))
    page.locator("#settings-close").click()
    open_tab(page, "Models")
    mine = page.locator('#models-list .model[data-title="kleines.gguf"]')
    expect(mine).to_be_visible(timeout=15_000)
    page.on("dialog", lambda dialog: dialog.accept())
    mine.locator('[data-act="delete"]').click()
    expect(page.locator("#models-said .bad")).to_contain_text("only reads", timeout=15_000)
    page.locator("#settings-open").click()
    page.locator("#settings-folders [data-folder]").click()
    expect(page.locator("#settings-folders")).not_to_contain_text("meine Modelle")
    page.locator("#settings-close").click()
    expect(mine).to_have_count(0, timeout=15_000)
    assert (shelf / "kleines.gguf").exists()


def test_what_can_be_made_again_is_cleared_after_a_question(
    open_page: Open, served: Served
) -> None:
    page = open_settings(open_page, served)
    disk = page.locator("#settings-disk")
    expect(disk).to_contain_text("5 MB", timeout=15_000)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#settings-clear").click()
    page.wait_for_timeout(1000)
    expect(disk).to_contain_text("5 MB")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#settings-clear").click()
    expect(page.locator("#settings-said")).to_contain_text("5 MB came back", timeout=15_000)
    expect(disk).not_to_contain_text("5 MB", timeout=15_000)
