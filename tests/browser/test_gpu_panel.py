"""The GPU panel as a person sees it: without a card, and with two that a scripted answer brings."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from backends.card.alerts import Alerts
from backends.card.nvml import LOST
from backends.card.reading import Gpu, GpuProcess, Host, Reading
from tests.served import Served, serving

pytestmark = pytest.mark.browser
GB = 2**30
EVIL = "<img src=x onerror=window.hacked=1>"
NAME = "NVIDIA GeForce RTX 4070 Ti"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("panel") / "home", spare=False) as server:
        yield server


class TwoCards:
    """An `/api/gpu` with two cards and ten minutes behind it, each second one reading more."""

    def __init__(self) -> None:
        self.begin = time.monotonic() - 600
        self.alerts = Alerts()
        self.asked: list[dict[str, str]] = []
        self.lost = False
        self.memory_told = True

    def gpus(self, second: float) -> tuple[Gpu, ...]:
        chat, image = 120 <= second < 210, 300 <= second < 520
        wave = math.sin(second / 3) * 4
        busy = 94 + wave if image else 71 + wave if chat else 2
        used = (3.7 + 6.2 * (second > 280) + 0.7) * GB
        first = Gpu(
            0, NAME, "GPU-a", round(busy), round(used), round(11.6 * GB - used), 12 * GB,
            round(48 + 28 * image + 12 * chat + wave), 30 + 230.0 * image + 140 * chat + wave,
            285.0, 2610 if image or chat else 210, 10501, 30 + 25 * image, 83,
            4 if image or chat else 1, 4, 16, 16, ("power limit",) if image else (),
            3600.0 + 120 * second,
            processes=(GpuProcess(11, "python", round(3.7 * GB)),
             GpuProcess(12, "python", round(6.2 * GB)), GpuProcess(21, "Xorg", 300 * 2**20),
             GpuProcess(22, f"firefox {EVIL}", 420 * 2**20)) if self.memory_told else None,
        )  # fmt: skip
        if not self.memory_told:
            first = Gpu(0, NAME, "GPU-a", total_bytes=None)
        second_card = replace(
            Gpu(1, "NVIDIA T4", "GPU-b", 0, GB, 14 * GB, 15 * GB, 41, 9.5, 70.0, 300, 5001,
                slowdown_c=90, pcie_generation=3, pcie_generation_max=3, pcie_width=8,
                pcie_width_max=16, throttled=(), energy_j=100.0 + second * 9, processes=()),
            error="",
        )  # fmt: skip
        return first, Gpu(1, "NVIDIA T4", "GPU-b", error=LOST) if self.lost else second_card

    def reading(self, number: int) -> Reading:
        host = Host(22 + 9 * math.sin(number / 9), 9 * GB, 32 * GB, 412 * GB)
        return Reading(self.begin + number, "cuda", "", self.gpus(number), host, number)

    def residents(self) -> list[dict[str, Any]]:
        def row(label: str, size: float, state: str, owner: str, **more: Any) -> dict[str, Any]:
            told = {"id": label, "kind": "model", "device": "cuda:0", "pid": None, **more}
            return {
                "label": label,
                "bytes": round(size * GB),
                "state": state,
                "owner": owner,
                **told,
            }

        return [
            row(f"Qwen3 8B {EVIL}", 3.4, "ready", "chat", pid=11),
            row("SDXL base", 5.9, "busy", "image", pid=12),
            row("Whisper turbo", 1.6, "parked", "speech"),
            row("the warm spare", 0.3, "ready", "", kind="spare", device="cpu"),
        ]

    def activity(self) -> list[dict[str, Any]]:
        def band(kind: str, label: str, begin: int, end: int | None, wh: float | None) -> Any:
            return {"id": label, "kind": kind, "label": label, "device": "cuda:0", "runs": 1,
                    "begin": self.begin + begin, "end": None if end is None else self.begin + end,
                    "energy_wh": wh}  # fmt: skip

        return [
            band("load", "Qwen3 8B", 100, 120, None),
            band("chat", "Qwen3 8B", 120, 210, 4.21),
            band("load", "SDXL base", 280, 300, None),
            band("image", "SDXL base", 300, 520, 15.9),
            band("finetune", f"LoRA {EVIL}", 540, None, None),
        ]

    def __call__(self, route: Route) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(route.request.url).query).items()}
        self.asked.append(query)
        if route.request.method == "POST":
            self.alerts.dismiss(query["alert"])
            return route.fulfill(json={"status": "ok"})
        newest = int(time.monotonic() - self.begin)
        seq = int(query["seq"])
        first = newest + seq if seq < 0 else seq
        readings = [self.reading(n) for n in range(max(1, first + 1), newest + 1)]
        for reading in readings[-3:]:
            self.alerts.look(reading)
        answer = {
            "seq": newest, "readings": [r.to_json() for r in readings], "now": time.monotonic(),
            "residents": self.residents(), "share": None,
            "alerts": [asdict(alert) for alert in self.alerts.shown()],
        }  # fmt: skip
        if "panel" in query:
            answer["activity"] = self.activity()
        return route.fulfill(body=json.dumps(answer), content_type="application/json")


def with_two_cards(page: Page) -> TwoCards:
    cards = TwoCards()
    page.route("**/api/gpu*", cards)
    page.route("**/api/gpu/**", cards)
    page.locator("#gpu-strip .card").nth(1).wait_for()
    return cards


def panel_of(page: Page) -> Any:
    return page.get_by_role("dialog", name="GPU panel")


def opened(page: Page) -> Any:
    page.locator("#gpu-strip .strip").click(position={"x": 30, "y": 15})
    panel = panel_of(page)
    panel.locator("section").first.wait_for()
    return panel


def no_sideways_scrolling(page: Page) -> None:
    wide = "e => e.scrollWidth - e.clientWidth"
    assert page.locator("html").evaluate(wide) <= 0
    assert page.locator(".gpu-panel").evaluate(wide) <= 0


def test_without_a_card_the_panel_says_so_and_shows_cpu_ram_and_disk(
    served: Served, open_page: Callable[..., Page], picture: Callable[[Page, str], None]
) -> None:
    page = open_page(served)
    panel = opened(page)
    expect(panel).to_contain_text("No NVIDIA GPU found: CPU mode.")
    expect(panel.get_by_role("heading", name="This computer")).to_be_visible()
    for words in ("CPU", "RAM", "Free on disk", "Everything else"):
        expect(panel).to_contain_text(words)
    assert "Wh" not in panel.inner_text() and "GPU 0" not in panel.inner_text()
    expect(panel.locator("figure")).to_have_count(2)
    expect(panel.locator(".line").first).to_have_attribute("d", re.compile("L"), timeout=10_000)
    no_sideways_scrolling(page)
    picture(page, "panel-cpu")


def test_it_opens_and_closes_by_mouse_and_keyboard_on_every_tab(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    button, panel = page.get_by_role("button", name="GPU panel"), panel_of(page)
    for tab in ("Chat", "Image"):
        page.get_by_role("tab", name=tab).click()
        opened(page)
        expect(button).to_have_attribute("aria-expanded", "true")
        panel.get_by_role("button", name="Close").click()
        expect(panel).to_be_hidden()
        expect(button).to_have_attribute("aria-expanded", "false")
    button.focus()
    page.keyboard.press("Enter")
    expect(panel).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(button).to_be_focused()
    opened(page)
    page.locator("#gpu-strip .strip").click(position={"x": 30, "y": 15})
    expect(panel).to_be_hidden()


def test_escape_elsewhere_leaves_the_panel_open(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    panel = opened(page)
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("Escape")
    expect(panel).to_be_visible()


def test_two_cards_show_whose_memory_it_is_and_everything_that_the_driver_tells(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    with_two_cards(page)
    panel = opened(page)
    first = panel.locator("section").first
    expect(first.get_by_role("heading")).to_have_text(f"GPU 0 · {NAME}")
    for words in (
        f"Qwen3 8B {EVIL}", "Chat · ready", "SDXL base", "Image · busy",
        "Whisper turbo", "Speech · parked, 1.6 GB of RAM",
        f"Xorg 0.3 GB, firefox {EVIL} 0.4 GB", "The driver itself", "Free",
        "of 285 W", "slows down at 83 °C", "10501 MHz", "of gen 4 ×16", "Held back by", "Wh in",
    ):  # fmt: skip
        expect(first).to_contain_text(words)
    kinds = first.locator(".bar i").evaluate_all("all => all.map((i) => i.dataset.owner)")
    assert kinds == ["chat", "image", "own", "other", "driver"]
    expect(first.locator(".bands rect[data-owner=image]").first).to_be_visible()
    second = panel.locator("section").nth(1)
    expect(second).to_contain_text("GPU 1 · NVIDIA T4")
    expect(second).to_contain_text("gen 3 ×8 of gen 3 ×16")
    expect(second.locator("dl div").filter(has_text="Fan")).to_have_text("Fann/a")
    computer = panel.locator("section").nth(2)
    expect(computer).to_contain_text("parked")
    rows = panel.locator("tr")
    expect(rows.nth(0)).to_contain_text("running")
    expect(rows.nth(1)).to_contain_text("16 Wh")
    expect(rows.nth(2)).to_contain_text("4.2 Wh")
    assert panel.locator("img").count() == 0
    assert page.evaluate("window.hacked === undefined")


def test_the_closed_panel_asks_for_nothing_and_the_open_one_for_ten_minutes_once(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    cards = with_two_cards(page)
    page.wait_for_timeout(1500)
    assert not any("panel" in query for query in cards.asked)
    before = len(cards.asked)
    opened(page)
    page.wait_for_timeout(2500)
    asked = [int(q["seq"]) for q in cards.asked[before:] if "panel" in q]
    assert asked[0] == -600 and min(asked[1:]) > 0
    panel_of(page).get_by_role("button", name="Close").click()
    page.wait_for_timeout(1500)
    assert "panel" not in cards.asked[-1]
    made = "() => document.querySelector('#gpu-panel .line').getAttribute('d')"
    was = page.evaluate(made)
    page.wait_for_timeout(1500)
    assert page.evaluate(made) == was  # and draws nothing


def test_an_alert_is_said_in_the_strip_and_the_panel_until_it_is_dismissed(
    served: Served, open_page: Callable[..., Page], picture: Callable[[Page, str], None]
) -> None:
    page = open_page(served)
    cards = with_two_cards(page)
    alert = page.get_by_role("alert").filter(has_text="GPU 1")
    expect(page.locator("#gpu-strip .alert")).to_be_hidden()
    cards.lost = True
    expect(alert).to_contain_text("The driver lost this GPU.", timeout=10_000)
    picture(page, "panel-alert-strip")
    panel = opened(page)
    expect(panel.locator("section").nth(1)).to_contain_text(LOST)
    expect(panel.locator("section").first).to_contain_text("of 285 W")
    picture(page, "panel-lost")
    panel.get_by_role("button", name="Dismiss").click()
    expect(panel.locator(".alerts li")).to_have_count(0)
    expect(page.locator("#gpu-strip .alert")).to_be_hidden()
    page.wait_for_timeout(2500)
    expect(page.locator("#gpu-strip .alert")).to_be_hidden()
    assert {"alert": "cuda:1/lost"} in cards.asked


def test_what_is_not_told_is_n_a_and_never_zero(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    cards = with_two_cards(page)
    cards.memory_told = False
    page.wait_for_timeout(1200)
    first = opened(page).locator("section").first
    expect(first.locator(".memory")).to_have_text("VRAMn/a")
    facts = first.locator("dd").all_inner_texts()
    assert set(facts) == {"n/a"}, facts
    assert " 0 %" not in first.inner_text() and "0 MB" not in first.inner_text()


def test_pointing_at_a_chart_says_what_was_then(
    served: Served, open_page: Callable[..., Page]
) -> None:
    page = open_page(served)
    with_two_cards(page)
    figure = opened(page).locator("figure").first
    box = figure.locator("svg").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 20)
    expect(figure.locator("figcaption b")).to_have_text(re.compile(r"^9\d % · [23] min ago$|^100"))
    page.mouse.move(5, 5)
    expect(figure.locator("figcaption b")).not_to_contain_text("ago")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_looks_right(
    served: Served,
    open_page: Callable[..., Page],
    picture: Callable[[Page, str], None],
    colours: str,
    width: int,
) -> None:
    size = {"width": width, "height": 800}
    page = open_page(served, color_scheme=colours, viewport=size)
    with_two_cards(page)
    picture(page, f"strip-two-cards-{colours}-{width}")
    opened(page)
    page.wait_for_timeout(1200)
    no_sideways_scrolling(page)
    assert page.get_by_text("Card and memory").first.is_visible()
    picture(page, f"panel-two-cards-{colours}-{width}")
