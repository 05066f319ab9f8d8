"""A dataset of the hub on the Fine-tune tab: got by its name, seen coming, cancelled, refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.backends.models.fake_hub import FakeHub
from tests.served import Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


def rows(count: int) -> bytes:
    """Rows that no two of are alike."""
    chance = random.Random(3)
    words = [f"{chance.getrandbits(40):x}" for _ in range(400)]
    made = ({"instruction": f"What is {n}?", "output": " ".join(chance.choices(words, k=60))}
            for n in range(count))  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made).encode()


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        files = {"train.large.jsonl": rows(4000), "test.jsonl": rows(30)}
        fake.add_dataset("somebody/questions", files)
        fake.add_dataset("somebody/second", {"data.large.jsonl": rows(4000)})
        fake.add_dataset("somebody/secret", files, gated=True)
        fake.add_dataset("somebody/script", {"script.py": b"pass"})
        yield fake


@pytest.fixture
def served(hub: FakeHub, tmp_path: Path) -> Iterator[Served]:
    hub.slow = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        patch.setenv("WERKBANK_CACHE", str(tmp_path / "cache"))
        patch.setenv("WERKBANK_TEST_FETCH_PACE", "5,0.1,0.2,3")
        with serving(tmp_path / "home", spare=False) as server:
            yield server


def tab(page: Page) -> None:
    page.get_by_role("tab", name="Fine-tune").click()
    expect(page.locator("#finetune-drop")).to_be_visible()


def ask(page: Page, name: str) -> None:
    box = page.locator("#finetune-hub-name textarea, #finetune-hub-name input")
    fold = page.get_by_role("button", name="From the hub")
    expect(fold).to_be_visible()
    if not box.is_visible():
        fold.click()
    box.fill(name)
    page.locator("#finetune-hub-get").click()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_dataset_comes_by_its_name_and_is_looked_at(
    served: Served, hub: FakeHub, open_page: Open, picture: Picture, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 1100}
    page = open_page(served, viewport=size, color_scheme=scheme)
    tab(page)
    hub.slow = 0.15
    ask(page, "somebody/questions")
    said, told = page.locator("#finetune-hub-said"), page.locator("#finetune-told")
    expect(said).to_contain_text(re.compile(r"[1-9]\d? % of 3 MB · .*/s · \d+ s left"),
                                 timeout=20_000)  # fmt: skip
    expect(page.locator("#finetune-hub-cancel")).to_be_visible()
    page.locator("#finetune-hub-said").scroll_into_view_if_needed()
    picture(page, f"hub-dataset-coming-{width}-{scheme}")
    hub.slow = 0.0
    expect(said).to_contain_text("is one of your datasets now", timeout=20_000)
    expect(told).to_contain_text("All 4,000 rows can be trained on", timeout=30_000)
    expect(page.locator("#finetune-dataset input")).to_have_value("somebody/questions")
    expect(page.locator("#finetune-hub-cancel")).to_be_hidden()
    page.locator("#finetune-hub-said").scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    picture(page, f"hub-dataset-here-{width}-{scheme}")
    # Another part of it is one more dataset.
    page.locator("#finetune-hub-part input").click()
    page.get_by_role("option", name="test (").click()
    page.locator("#finetune-hub-get").click()
    expect(page.locator("#finetune-dataset input")).to_have_value(
        "somebody/questions (test)", timeout=20_000
    )
    expect(told).to_contain_text("All 30 rows can be trained on", timeout=30_000)
    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert over <= 0, over
    page.get_by_role("tab", name="Models").or_(page.locator(".overflow-menu > button")).locator(
        "visible=true"
    ).first.click()
    if width < 500:
        page.locator(".overflow-dropdown button", has_text="Models").click()
    expect(page.locator("#models-list .model").first).to_be_visible(timeout=15_000)
    assert page.locator('#models-list [data-name="somebody/questions"]').count() == 0


def test_it_goes_on_after_a_reload_and_can_be_cancelled(
    served: Served, hub: FakeHub, open_page: Open
) -> None:
    page = open_page(served, dies=True)
    tab(page)
    hub.slow = 0.3
    ask(page, "somebody/second")
    said = page.locator("#finetune-hub-said")
    expect(said).to_contain_text(re.compile(r"[1-9]\d? % of"), timeout=20_000)
    page.reload()
    tab(page)
    expect(said).to_be_visible(timeout=15_000)  # the fold is open where one is under way
    expect(said).to_contain_text("somebody/second", timeout=15_000)
    page.locator("#finetune-hub-cancel").click()
    expect(said).to_contain_text("came back", timeout=15_000)
    expect(page.locator("#finetune-hub-cancel")).to_be_hidden()
    ask(page, "somebody/second")
    expect(said).to_contain_text(re.compile(r"\d+ % of"), timeout=20_000)
    page.reload()
    tab(page)
    hub.slow = 0.0
    expect(said).to_contain_text("is one of your datasets now", timeout=30_000)
    page.locator("#finetune-dataset input").click()
    page.get_by_role("option", name="somebody/second").click()
    told = page.locator("#finetune-told")
    expect(told).to_contain_text("All 4,000 rows can be trained on", timeout=30_000)


def test_what_cannot_be_got_says_why_and_the_tab_works_on(
    served: Served, hub: FakeHub, open_page: Open, picture: Picture
) -> None:
    page = open_page(served)
    tab(page)
    said = page.locator("#finetune-hub-said")
    for name, why in (("nonsense", "does not name a dataset on the hub. Write owner/name."),
                      ("somebody/script", "which is never run here"),
                      ("no/where", "The hub has no dataset no/where")):  # fmt: skip
        ask(page, name)
        expect(said).to_contain_text(why, timeout=15_000)
    ask(page, "somebody/secret")
    expect(said).to_contain_text("is gated", timeout=15_000)
    expect(said.locator("a")).to_have_attribute(
        "href", "https://huggingface.co/datasets/somebody/secret"
    )
    expect(page.locator("#finetune-hub-resume")).to_have_text("Try again")
    picture(page, "hub-dataset-gated")
    page.locator("#finetune-hub-cancel").click()
    expect(page.locator("#finetune-hub-cancel")).to_be_hidden()
    hub.close()  # the network is gone
    ask(page, "somebody/questions")
    expect(said).to_contain_text("this machine seems to be offline", timeout=30_000)
    page.locator("#finetune-example").click()
    expect(page.locator("#finetune-told")).to_contain_text("can be trained on", timeout=30_000)
