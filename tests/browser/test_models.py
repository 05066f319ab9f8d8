"""The Models tab against a hub on loopback: download, pause, resume, terms, a refusal, deletion."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.backends.models import crafted
from tests.backends.models.fake_hub import TOKEN, FakeHub
from tests.served import Served, serving

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
COUNT = 1_000_000  # numbers in the weights of the made model: 4 MB


def weights() -> bytes:
    """A safetensors file of 4 MB that no compression makes smaller."""
    header = {"w": {"dtype": "F32", "shape": [COUNT], "data_offsets": [0, 4 * COUNT]}}
    return crafted.framed(json.dumps(header).encode(), random.Random(4).randbytes(4 * COUNT))


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        config = json.dumps(crafted.CONFIG).encode()
        files = {"config.json": config, "model.safetensors": weights()}
        fake.add("Qwen/Qwen3-4B", files)
        fake.add("HuggingFaceTB/SmolLM2-360M-Instruct", files)
        fake.add("somebody/tiny-talker", files, downloads=4321)
        q4, q8 = (crafted.gguf({"general.name": n}) for n in ("four", "eight"))
        fake.add("somebody/tiny-ggufs", {"t-Q4_K_M.gguf": q4, "t-Q8_0.gguf": q8}, tags=("gguf",))
        fake.add("google/gemma-2b-it", files, gated=True)
        yield fake


@pytest.fixture(scope="module")
def served(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        with serving(folder / "home", spare=False) as server:
            yield server


@pytest.fixture(autouse=True)
def quick(hub: FakeHub) -> Iterator[None]:
    hub.slow = 0.0
    yield
    hub.slow = 0.0


def open_tab(page: Page, name: str) -> None:
    """On a narrow screen some tabs are in the menu behind three dots."""
    tab, menu = page.get_by_role("tab", name=name), page.locator(".overflow-menu > button")
    expect(tab.or_(menu).locator("visible=true").first).to_be_visible(timeout=30_000)
    page.wait_for_timeout(300)  # until the tabs know how much room they have
    if not tab.is_visible():
        tab = page.locator(".overflow-dropdown button", has_text=name)
        for _ in range(3):  # a page that is still being laid out closes it again
            menu.click()
            page.wait_for_timeout(300)
            if tab.is_visible():
                break
    tab.click()


def open_models(open_page: Open, served: Served, **options: object) -> Page:
    page = open_page(served, **options)
    open_tab(page, "Models")
    expect(page.locator("#models-list .model").first).to_be_visible(timeout=15_000)
    return page


def row(page: Page, name: str) -> Locator:
    return page.locator(f'#models-list .model[data-name="{name}"]')


def press(where: Locator, act: str) -> None:
    where.locator(f'[data-act="{act}"]').click()


def ask_hub(page: Page, words: str) -> None:
    page.locator("#models-search textarea, #models-search input").fill(words)
    page.locator("#models-ask-hub").click()
    expect(page.locator("#models-said")).to_contain_text("The hub has", timeout=15_000)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_says_what_fits_and_nothing_hangs_over(
    open_page: Open, picture: Picture, served: Served, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800 if width > 500 else 844}
    page = open_models(open_page, served, viewport=size, color_scheme=scheme)
    eight = row(page, "meta-llama/Llama-3.1-8B-Instruct")
    expect(eight.locator(".verdict")).not_to_be_empty()
    assert eight.locator(".badge").count() >= 2 and eight.locator(".badge.best").count() <= 1
    expect(page.locator("#models-head")).to_contain_text("RAM")
    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert over <= 0, over
    picture(page, f"models-{scheme}-{width}")


def test_a_model_is_downloaded_paused_resumed_and_deleted(
    open_page: Open, picture: Picture, served: Served, hub: FakeHub
) -> None:
    hub.slow = 0.15  # 4 MB in about 10 s
    page = open_models(open_page, served)
    qwen = row(page, "Qwen/Qwen3-4B")
    press(qwen, "download")
    expect(qwen.locator(".size")).to_contain_text(re.compile(r"\d+ % · .*/s · \d+ s left"),
                                                  timeout=20_000)  # fmt: skip
    picture(page, "models-downloading")
    press(qwen, "pause")
    expect(qwen.locator(".size")).to_contain_text(re.compile(r"Paused at [1-9]\d? %"))
    page.reload()  # a paused one is found again
    open_tab(page, "Models")
    expect(qwen.locator(".size")).to_contain_text("Paused at", timeout=15_000)
    hub.slow = 0.0
    before = len(hub.seen)
    press(qwen, "resume")
    expect(qwen.locator('[data-act="delete"]')).to_be_visible(timeout=30_000)
    expect(qwen.locator(".size")).to_have_text("4 MB")
    ranges = [a.range for a in hub.seen[before:] if a.server == "cdn" and a.method == "GET"]
    assert ranges and all(r.startswith("bytes=") and r != "bytes=0-" for r in ranges), ranges
    page.on("dialog", lambda dialog: dialog.accept())
    press(qwen, "delete")
    expect(page.locator("#models-said")).to_contain_text("Deleted: 4 MB came back", timeout=15_000)
    expect(qwen.locator('[data-act="download"]')).to_be_visible()


def test_a_cancelled_download_leaves_nothing(open_page: Open, served: Served, hub: FakeHub) -> None:
    hub.slow = 0.3
    page = open_models(open_page, served)
    page.on("dialog", lambda dialog: dialog.accept())
    small = row(page, "HuggingFaceTB/SmolLM2-360M-Instruct")
    press(small, "download")
    expect(small.locator(".size")).to_contain_text(re.compile("[1-9]\\d? %"), timeout=20_000)
    press(small, "cancel")
    expect(page.locator("#models-said")).to_contain_text("came back", timeout=15_000)
    expect(small.locator('[data-act="download"]')).to_be_visible()


def test_a_hit_of_the_hub_comes_and_of_several_forms_one_is_chosen(
    open_page: Open, picture: Picture, served: Served
) -> None:
    page = open_models(open_page, served)
    ask_hub(page, "tiny")
    hit = row(page, "somebody/tiny-talker")
    expect(hit).to_contain_text("4,321 downloads a month")
    press(hit, "download")
    expect(hit.locator('[data-act="delete"]')).to_be_visible(timeout=30_000)
    press(row(page, "somebody/tiny-ggufs"), "download")
    ask = page.locator("#models-asked .ask")
    expect(ask).to_contain_text("comes in 2 forms", timeout=15_000)
    expect(ask).to_contain_text("a little worse, what most people take")
    picture(page, "models-forms")
    press(ask.locator("li").filter(has_text="Q4_K_M"), "take")
    there = row(page, "somebody/tiny-ggufs").locator('[data-act="delete"]')
    expect(there).to_be_visible(timeout=30_000)
    expect(ask).to_have_count(0)


def test_a_gated_model_says_what_has_to_be_done_and_a_refusal_leads_to_its_page(
    open_page: Open, picture: Picture, served: Served
) -> None:
    page = open_models(open_page, served)
    gemma = row(page, "google/gemma-2b-it")
    press(gemma, "download")
    ask = page.locator("#models-asked .ask")
    expect(ask).to_contain_text("only to people who accepted its terms")
    picture(page, "models-terms")
    press(ask, "dismiss")
    page.locator("#models-token input").fill(TOKEN)
    page.locator("#models-token-keep").click()
    expect(page.locator("#models-token-status")).to_contain_text("Kept: hf_…1234")
    expect(page.locator("#models-token input")).to_have_value("")
    assert TOKEN not in page.content()
    page.locator("#models-token-check").click()
    expect(page.locator("#models-token-status")).to_contain_text("belongs to tester")
    press(gemma, "download")
    expect(gemma.locator('[role="alert"]')).to_be_visible(timeout=20_000)
    page_link = gemma.get_by_role("link", name="Open its page")
    assert (page_link.get_attribute("href") or "").endswith("/google/gemma-2b-it")
    picture(page, "models-gated")
    page.on("dialog", lambda dialog: dialog.accept())
    press(gemma, "cancel")
    page.locator("#models-token-remove").click()
    expect(page.locator("#models-token-status")).to_contain_text("None.")
    assert TOKEN not in served.log.read_text("utf-8")


def test_offline_says_so_in_one_line_and_the_list_stays(
    open_page: Open, served: Served, hub: FakeHub
) -> None:
    page = open_models(open_page, served)

    def gone(handler: object, path: str) -> bool:
        handler.connection.close()  # type: ignore[attr-defined]
        raise ConnectionResetError

    hub.faults.append(gone)
    try:
        page.locator("#models-search textarea, #models-search input").fill("whisper")
        page.locator("#models-ask-hub").click()
        said = page.locator("#models-said")
        expect(said.locator(".bad")).to_be_visible(timeout=30_000)
        expect(said).to_contain_text("on this machine works all the same")
    finally:
        hub.faults.clear()
    expect(row(page, "openai/whisper-tiny")).to_be_visible()


def test_a_file_that_is_dropped_becomes_a_model_and_a_broken_one_is_told(
    open_page: Open, served: Served, tmp_path: Path
) -> None:
    page = open_models(open_page, served)
    whole, cut = tmp_path / "mein modell.gguf", tmp_path / "cut.gguf"
    whole.write_bytes(crafted.gguf())
    cut.write_bytes(crafted.gguf()[:-8])
    drop = page.locator("#models-drop input[type=file]")
    drop.set_input_files(cut)
    expect(page.locator("#models-added .bad")).to_contain_text("incomplete", timeout=15_000)
    drop = page.locator("#models-drop input[type=file]")
    drop.set_input_files(whole)
    expect(page.locator("#models-added")).to_contain_text("is in the list now", timeout=15_000)
    mine = page.locator('#models-list .model[data-title^="mein modell"]')
    expect(mine).to_be_visible()
    expect(page.locator('#models-list .model[data-title^="cut"]')).to_have_count(0)


def test_chat_with_it_opens_the_chat_with_that_model(open_page: Open, served: Served) -> None:
    page = open_models(open_page, served)
    echo = page.locator('#models-list .model[data-key="none:"]')
    press(echo, "chat")
    expect(page.locator("#chat-model input")).to_be_visible()
    expect(page.locator("#chat-model input")).to_have_value("Echo (no model)", timeout=10_000)
    # With the model's own settings: the one that was chosen before answers at temperature 0.
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("0.7")


@pytest.mark.model
def test_an_old_pickle_is_converted_and_one_with_code_in_it_is_refused(
    open_page: Open, picture: Picture, served: Served, tmp_path: Path
) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    old, bad = tmp_path / "alt.pt", tmp_path / "bad.pt"
    torch.save({"layer.weight": torch.zeros(64, 32), "layer.bias": torch.zeros(64)}, old)
    torch.save({"w": torch.zeros(4), "x": Evil()}, bad)
    page = open_models(open_page, served)
    added = page.locator("#models-added")
    page.locator("#models-drop input[type=file]").set_input_files(bad)
    expect(added.locator(".line.bad").first).to_be_visible(timeout=60_000)
    assert not (tmp_path / "ran").exists()
    page.locator("#models-drop input[type=file]").set_input_files(old)
    expect(added).to_contain_text("2 tensors", timeout=60_000)
    picture(page, "models-converted")
    added.locator("summary").click()
    expect(added).to_contain_text("layer.weight 64 x 32")
    expect(page.locator('#models-list .model[data-title^="alt"]')).to_be_visible(timeout=15_000)
