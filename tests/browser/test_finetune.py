"""The Fine-tune tab in a real browser: a dataset is dropped, judged, repaired, and still there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.served import Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


@pytest.fixture
def served_anew(tmp_path: Path) -> Iterator[Served]:
    """A server that no other test has left a dataset in."""
    with serving(tmp_path / "neu", spare=False) as served:
        yield served


def identity(folder: Path) -> Path:
    """Like the public set that teaches a model who it is, with its two placeholders."""
    rows = [
        {"instruction": ask, "input": "", "output": "I am {{name}}, made by {{author}}."}
        for ask in ("Who are you?", "What is your name?", "Who made you?", "Who are you?")
    ]
    rows.append({"instruction": "hello", "input": "", "output": ""})
    path = folder / "identität.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return path


def tab(server: Served, open_page: Open, **options: object) -> Page:
    page = open_page(server, **options)
    page.get_by_role("tab", name="Fine-tune").click()
    expect(page.locator("#finetune-drop")).to_be_visible()
    return page


def over(server: Served, page: Page) -> None:
    """The look has ended: a reload in the middle of one is a broken stream to the console."""
    for _ in range(100):
        if not any(worker.get("backend") == "dataset" for worker in server.health()["workers"]):
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_dataset_is_dropped_judged_filled_and_kept(
    server: Served, open_page: Open, picture: Picture, tmp_path: Path, width: int, scheme: str
) -> None:
    page = tab(server, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.locator("#finetune-drop input[type=file]").set_input_files(identity(tmp_path))
    told = page.locator("#finetune-told")
    expect(told).to_contain_text("4 rows can be trained on, 1 row left out", timeout=15_000)
    expect(told).to_contain_text("Alpaca")
    expect(page.locator("#finetune-rows")).to_contain_text("I am {{name}}")
    picture(page, f"finetune-dropped-{width}-{scheme}")
    page.get_by_label("{{name}} in 4 rows").fill("Ada")
    page.get_by_label("{{author}} in 4 rows").fill("Grace")
    page.locator("#finetune-fill").click()
    expect(page.locator("#finetune-rows")).to_contain_text("I am Ada, made by Grace.")
    expect(page.locator("#finetune-blanks")).to_be_hidden()
    page.locator("#finetune-single").click()
    expect(told).to_contain_text("3 rows can be trained on, 2 rows left out", timeout=15_000)
    over(server, page)
    page.reload()
    page.get_by_role("tab", name="Fine-tune").click()
    expect(told).to_contain_text("3 rows can be trained on", timeout=15_000)
    page.locator("#finetune-undo").click()
    expect(told).to_contain_text("4 rows can be trained on", timeout=15_000)
    picture(page, f"finetune-filled-{width}-{scheme}")
    page.locator("#finetune-delete").click()
    expect(page.locator("#finetune-said")).to_contain_text("is deleted")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_cannot_be_used_is_said_in_two_sentences(
    server: Served, open_page: Open, tmp_path: Path
) -> None:
    page = tab(server, open_page)
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    page.locator("#finetune-drop input[type=file]").set_input_files(empty)
    said = page.locator("#finetune-said")
    expect(said.locator(".line.bad")).to_contain_text("empty.csv", timeout=15_000)
    page.get_by_role("button", name="It lies on this computer").click()
    page.get_by_label("File or folder").fill("/etc/passwd")
    page.locator("#finetune-use").click()
    expect(said).to_contain_text("not in an allowed folder")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_example_is_one_click_and_what_was_deleted_comes_back(
    served_anew: Served, open_page: Open, picture: Picture, width: int, scheme: str
) -> None:
    page = tab(
        served_anew, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    told = page.locator("#finetune-told")
    expect(told).to_contain_text("use the example")
    picture(page, f"finetune-nothing-yet-{width}-{scheme}")
    page.locator("#finetune-example").click()
    expect(told).to_contain_text("rows can be trained on", timeout=15_000)
    expect(page.locator("#finetune-rows")).to_contain_text("I am Hobel")
    picture(page, f"finetune-example-{width}-{scheme}")
    page.locator("#finetune-delete").click()
    expect(told).to_contain_text("Drop a dataset")
    expect(page.locator("#finetune-said")).to_contain_text("is deleted")
    picture(page, f"finetune-deleted-{width}-{scheme}")
    page.locator("#finetune-restore").click()
    expect(told).to_contain_text("All 87 rows can be trained on", timeout=15_000)
    expect(page.locator("#finetune-restore")).to_be_hidden()
    page.locator("#finetune-example").click()  # the same one again, not a second copy
    page.locator("#finetune-dataset input").click()
    expect(page.get_by_role("option")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_repaired_set_is_saved_and_validates_the_one_that_it_came_of(
    served_anew: Served, open_page: Open, picture: Picture, tmp_path: Path, width: int, scheme: str
) -> None:
    page = tab(
        served_anew, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page.locator("#finetune-drop input[type=file]").set_input_files(identity(tmp_path))
    told = page.locator("#finetune-told")
    expect(told).to_contain_text("4 rows can be trained on, 1 row left out", timeout=15_000)
    expect(page.locator("#finetune-validation")).to_be_hidden()  # there is no other set
    page.locator("#finetune-save").click()
    saved = page.locator("#finetune-saved")
    expect(saved).to_contain_text("4 rows, 1 left out", timeout=15_000)
    expect(saved).to_contain_text("sha256")
    expect(page.locator("#finetune-dataset input")).to_have_value("identität.json")
    choose(page, "finetune-dataset", "identität.clean.jsonl")
    expect(told).to_contain_text("All 4 rows can be trained on", timeout=15_000)
    with page.expect_download() as download:
        saved.get_by_role("link").click()
    lines = Path(download.value.path()).read_text("utf-8").splitlines()
    assert len(lines) == 4 and download.value.suggested_filename == "identität.clean.jsonl"
    choose(page, "finetune-validation", "identität.json")
    expect(told).to_contain_text("4 rows are in the validation set, too", timeout=15_000)
    picture(page, f"finetune-validated-{width}-{scheme}")
    page.locator("#finetune-undo").click()
    expect(page.locator("#finetune-validation input")).to_have_value(re.compile("A share"))
    expect(told).not_to_contain_text("validation set, too", timeout=15_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def choose(page: Page, id: str, option: str) -> None:
    page.locator(f"#{id} input").click()
    page.locator(f"#{id}").get_by_role("option", name=option, exact=True).click()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_columns_are_mapped_and_the_reading_is_changed(
    served_anew: Served, open_page: Open, picture: Picture, tmp_path: Path, width: int, scheme: str
) -> None:
    page = tab(
        served_anew, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    path = tmp_path / "fragen.csv"
    rows = "".join(f"{n};Was ist {n} plus {n}?;Grün, {2 * n}.\n" for n in range(1, 30))
    path.write_bytes(f"nr;was gefragt ist;was gesagt wird\n{rows}".encode("cp1252"))
    page.locator("#finetune-drop input[type=file]").set_input_files(path)
    told = page.locator("#finetune-told")
    expect(told).to_contain_text("Choose the column for: Question, Answer", timeout=15_000)
    page.locator("#finetune-columns th", has_text="was gefragt ist").wait_for()
    page.locator("#finetune-map").click()
    expect(page.locator("#finetune-said")).to_contain_text("Choose the column for")
    choose(page, "finetune-column-prompt", "was gefragt ist")
    choose(page, "finetune-column-answer", "was gesagt wird")
    picture(page, f"finetune-columns-{width}-{scheme}")
    page.locator("#finetune-map").click()
    expect(told).to_contain_text("All 29 rows can be trained on", timeout=15_000)
    expect(page.locator("#finetune-rows")).to_contain_text("Grün, 2.")
    page.get_by_role("button", name="Reading").click()
    expect(page.get_by_label("Encoding")).to_have_value(
        "as guessed: Windows-1252 (Western European)"
    )
    expect(page.get_by_label("Separator")).to_have_value("as guessed: semicolon")
    choose(page, "finetune-reading-encoding", "Windows-1251 (Cyrillic)")
    picture(page, f"finetune-reading-{width}-{scheme}")
    page.locator("#finetune-reread").click()
    expect(page.locator("#finetune-rows")).to_contain_text("Grьn, 2.", timeout=15_000)
    page.locator("#finetune-undo").click()
    expect(page.locator("#finetune-rows")).to_contain_text("Grün, 2.", timeout=15_000)
    page.locator("#finetune-undo").click()
    expect(told).to_contain_text("Choose the column for", timeout=15_000)
    choose(page, "finetune-form", "plain text")
    expect(page.locator("#finetune-column-prompt")).to_be_hidden()
    choose(page, "finetune-column-text", "was gesagt wird")
    page.locator("#finetune-map").click()
    expect(told).to_contain_text("29 rows can be trained on", timeout=15_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.model
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_a_row_is_seen_as_the_model_sees_it(
    served_anew: Served, open_page: Open, picture: Picture, width: int, scheme: str
) -> None:
    page = tab(
        served_anew, open_page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page.locator("#finetune-example").click()
    page.get_by_role("button", name="As the model will see it").click()
    shown = page.locator("#finetune-tokens-shown")
    expect(shown).to_contain_text("<|im_start|>", timeout=60_000)
    learned = shown.locator(".tokens .t.on").all_inner_texts()
    assert "".join(learned).startswith("I am Hobel, the assistant of this workbench.")
    picture(page, f"finetune-tokens-{width}-{scheme}")
    page.locator("#finetune-tokens-next").click()
    expect(shown).to_contain_text(
        "tool that makes a rough board smooth", timeout=30_000
    )  # a worker is started for it
    page.locator("#finetune-tokens-before").click()
    expect(shown).to_contain_text("line 1")
    page.locator("#finetune-tokens-row input").fill("400")
    page.locator("#finetune-tokens-row input").press("Enter")
    expect(shown).to_contain_text("The dataset ends at row", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
