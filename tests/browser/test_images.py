"""Images as a user has them: say what is to be seen, find it again, begin with it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops, PngImagePlugin
from playwright.sync_api import Page, expect

from tests.backends.image import made_pipelines
from tests.served import Served, serving

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
TILES = "#image-pictures .tile"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a small model of random weights: what it draws is noise, all else is real."""
    home = tmp_path_factory.mktemp("atelier") / "mein Zuhaüse"
    made_pipelines.stable_diffusion(home / "models" / "small-diffusion")
    with serving(home, spare=False) as served:
        yield served


def images(served: Served, open_page: Open, **options: object) -> Page:
    page = open_page(served, **options)
    page.get_by_role("tab", name="Images").click()
    page.locator("#image-prompt textarea").wait_for()
    seen(page)
    return page


def seen(page: Page) -> None:
    """The gallery has come, empty or not."""
    page.locator(f"{TILES}, #image-pictures .empty:not([hidden])").first.wait_for()


def draw(page: Page, prompt: str) -> None:
    """Ask for a picture, and wait until it is the first of the gallery."""
    before = page.locator(TILES).count()
    page.locator("#image-prompt textarea").fill(prompt)
    page.locator("#image-draw").click()
    expect(page.locator(TILES)).to_have_count(before + 1, timeout=90_000)
    expect(page.locator(TILES).first).to_have_attribute("aria-label", prompt)


def test_an_empty_gallery_says_what_to_do(
    studio: Served, open_page: Open, picture: Picture
) -> None:
    page = images(studio, open_page, color_scheme="dark")
    expect(page.locator("#image-pictures .empty")).to_have_text(
        "Nothing drawn yet. Write what is to be seen, and press Draw."
    )
    expect(page.locator("#image-width input[type=number]")).to_have_value("64")  # the model's own
    page.locator("#image-draw").click()
    expect(page.locator("#image-said [role=alert]")).to_have_text(
        "There is nothing to draw yet. Write what is to be seen."
    )
    picture(page, "images-empty")


def test_a_prompt_becomes_a_picture_whose_settings_come_back(
    studio: Served, open_page: Open, picture: Picture
) -> None:
    page = images(studio, open_page, color_scheme="light")
    page.locator("#image-steps input[type=number]").fill("4")
    page.locator("#image-steps input[type=number]").blur()
    draw(page, "a red fox in the snow")
    page.locator(TILES).first.click()
    large = page.locator("#image-pictures dialog")
    expect(large.locator(".prompt")).to_have_text("a red fox in the snow")
    expect(large.locator("dl")).to_contain_text("small-diffusion")
    seed = large.locator("dt", has_text="Seed").locator("xpath=following-sibling::dd[1]")
    number = seed.inner_text()
    assert number.isdigit()
    assert large.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") == 64
    picture(page, "images-large")
    large.get_by_role("button", name="Use its settings").click()
    expect(page.locator("#image-seed input")).to_have_value(number)
    draw(page, "a red fox in the snow")  # the same again
    with studio.client() as client:
        first, second = client.get("/api/pictures").json()["pictures"][:2]
        files = [client.get(f"/api/pictures/{p['id']}/file").content for p in (first, second)]
    assert files[0] == files[1]
    picture(page, "images-gallery")


def test_a_picture_is_found_liked_deleted_and_brought_back(studio: Served, open_page: Open) -> None:
    page = images(studio, open_page)
    draw(page, "a blue bird")
    count = page.locator(TILES).count()
    page.get_by_role("searchbox", name="Search pictures").fill("bird")
    expect(page.locator(TILES)).to_have_count(1)
    page.locator(TILES).first.click()
    large = page.locator("#image-pictures dialog")
    large.get_by_role("button", name="Favourite").click()
    expect(large.get_by_role("button", name="★ Favourite")).to_be_visible()
    large.get_by_role("button", name="Delete").click()
    expect(page.locator("#image-pictures .empty")).to_have_text("No picture fits this search.")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(f"{TILES} .star")).to_have_count(1)
    page.get_by_role("searchbox", name="Search pictures").fill("")
    expect(page.locator(TILES)).to_have_count(count)


def test_what_is_drawn_is_stopped_and_what_waits_is_seen(
    studio: Served, open_page: Open, picture: Picture
) -> None:
    page = images(studio, open_page, dies=True, color_scheme="dark")
    before = page.locator(TILES).count()
    page.locator("#image-steps input[type=number]").fill("150")
    page.locator("#image-steps input[type=number]").blur()
    for side in ("width", "height"):
        page.locator(f"#image-{side} input[type=number]").fill("256")
        page.locator(f"#image-{side} input[type=number]").blur()
    for prompt in ("the first of two", "the second of two"):
        page.locator("#image-prompt textarea").fill(prompt)
        page.locator("#image-draw").click()
        expect(page.locator("#image-pictures")).to_contain_text(prompt)
    now = page.locator("#image-pictures .now")
    expect(now.locator(".how")).to_contain_text(re.compile(r"step \d+ of 150"), timeout=60_000)
    expect(now.locator("img")).to_be_visible()
    expect(page.locator("#image-pictures .waiting li")).to_contain_text("waiting")
    picture(page, "images-queue")
    page.reload()  # the queue belongs to the server
    page.get_by_role("tab", name="Images").click()
    seen(page)
    expect(now.locator(".what")).to_have_text("the first of two")
    page.locator("#image-pictures .waiting").get_by_role("button", name="Cancel").click()
    now.get_by_role("button", name="Stop").click()
    expect(now).to_be_hidden()
    expect(page.locator("#image-pictures .waiting li")).to_have_count(2)
    expect(page.locator("#image-pictures .waiting")).to_contain_text("cancelled")
    expect(page.locator(TILES)).to_have_count(before or page.locator(TILES).count())
    for _ in range(2):
        page.locator("#image-pictures .waiting").get_by_role("button", name="Remove").first.click()
        page.wait_for_timeout(300)
    expect(page.locator("#image-pictures .waiting")).to_be_hidden()


def test_a_picture_of_another_program_fills_the_form_and_says_what_differs(
    studio: Served, open_page: Open, picture: Picture, tmp_path: Path
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", (
        "ein Fuchs im Schnee\nNegative prompt: blurry\nSteps: 33, Sampler: Euler a, "
        "CFG scale: 4.5, Seed: 1234, Size: 128x64, Model: unknownModel"
    ))  # fmt: skip
    Image.new("RGB", (128, 64)).save(tmp_path / "fremd.png", pnginfo=info)
    page = images(studio, open_page, color_scheme="light")
    with page.expect_file_chooser() as chosen:
        page.locator("#image-taken").click()
    chosen.value.set_files(tmp_path / "fremd.png")
    expect(page.locator("#image-prompt textarea")).to_have_value("ein Fuchs im Schnee")
    expect(page.locator("#image-negative textarea")).to_have_value("blurry")
    for name, value in (("steps", "33"), ("guidance", "4.5"), ("width", "128"), ("height", "64")):
        expect(page.locator(f"#image-{name} input[type=number]")).to_have_value(value)
    expect(page.locator("#image-seed input")).to_have_value("1234")
    said = page.locator("#image-said")
    expect(said).to_contain_text("'unknownModel' is not on this machine")
    expect(said).to_contain_text("AUTOMATIC1111 or one like it drew it")
    picture(page, "images-taken")


def test_what_is_painted_over_is_drawn_anew_and_the_rest_stays(
    studio: Served, open_page: Open, picture: Picture
) -> None:
    page = images(studio, open_page, color_scheme="dark")
    draw(page, "to begin with")
    page.locator(TILES).first.click()
    page.get_by_role("button", name="Begin with it").click()
    expect(page.locator("#image-said")).to_contain_text("Draw changes this picture now.")
    canvas = page.locator("#image-editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)  # until it is laid out
    box = canvas.bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 24, middle[1] + 10, steps=6)
    page.mouse.up()
    page.wait_for_timeout(800)
    picture(page, "images-paint")
    draw(page, "painted over")
    page.locator(TILES).first.scroll_into_view_if_needed()
    picture(page, "images-painted")
    with studio.client() as client:
        new, old = client.get("/api/pictures").json()["pictures"][:2]
        recipe = client.get(f"/api/pictures/{new['id']}/recipe").json()
        files = [client.get(f"/api/pictures/{p['id']}/file").content for p in (new, old)]
    assert recipe["kind"] == "inpaint"
    share = changed(*files)
    assert 0.01 < share < 0.6, share


def changed(one: bytes, other: bytes) -> float:
    """The share of the pixels that differ."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in (one, other)]
    counts = ImageChops.difference(*pictures).convert("L").point(lambda v: 255 if v else 0)
    return counts.histogram()[255] / (counts.width * counts.height)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_needs_no_sideways_scrolling(
    studio: Served, open_page: Open, picture: Picture, scheme: str
) -> None:
    page = open_page(studio, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab = page.get_by_role("tab", name="Images")
    if not tab.is_visible():
        page.get_by_role("button", name="…").click()
    page.locator("#tab-image-button, [role=tab]:has-text('Images')").first.click()
    page.locator("#image-prompt textarea").wait_for()
    expect(page.locator(TILES).first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    picture(page, f"images-phone-{scheme}")
