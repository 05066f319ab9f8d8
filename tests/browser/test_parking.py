"""Two models in turn on a card for one: the first is seen parked, by name, and comes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backends.card import pretended
from tests.browser.test_chat import answer, choose_model, send, set_number
from tests.served import serving

pytestmark = [pytest.mark.browser, pytest.mark.model]
SMOLLM2, ECHO = "SmolLM2 135M Instruct (starter, safetensors)", "Echo (no model)"
CARD_MB, ECHO_MB = 4000, 2400  # SmolLM2 takes about 1,400


def test_the_first_model_is_parked_for_the_second_and_back_when_it_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_page: Callable[..., Page],
    picture: Callable[[Page, str], None],
) -> None:
    monkeypatch.setenv(pretended.VARIABLE, str(CARD_MB))
    slow = {"timeout": 120_000}
    with serving(tmp_path / "mein Zuhaüse") as served:
        page = open_page(served, color_scheme="dark", viewport={"width": 1280, "height": 900})
        status, strip = page.locator("#chat-model-status"), page.locator("#gpu-strip")
        expect(strip).to_contain_text("Pretended card")
        choose_model(page, SMOLLM2)
        page.locator("#chat-load").click()
        expect(status).to_contain_text("Ready", **slow)

        choose_model(page, ECHO)
        page.locator("#chat-load-options").locator("button").first.click()
        set_number(page, "chat-echo-card-mb", ECHO_MB)
        page.locator("#chat-load").click()
        expect(status).to_contain_text(f"{SMOLLM2} was parked in RAM to make room.", **slow)
        expect(status).to_contain_text("Ready", **slow)
        parked = strip.locator('.chip[data-state="parked"]')
        expect(parked).to_have_count(1)
        expect(parked).to_contain_text(SMOLLM2)
        choose_model(page, SMOLLM2)
        expect(status).to_contain_text(re.compile(r"Parked in RAM · back in about \d+ s"))
        states = {w["label"]: w["state"] for w in served.health()["workers"] if w["model"]}
        assert states == {SMOLLM2: "parked", ECHO: "ready"}
        page.wait_for_timeout(1200)
        expect(parked.locator(".rest")).to_contain_text("parked")
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(300)
            picture(page, f"parked-{scheme}-1280")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(300)
        picture(page, "parked-light-390")

        send(page, "What is the capital of France?")
        expect(parked).to_contain_text(ECHO, **slow)
        expect(page.locator("#chat-log .bot").last).to_contain_text("Paris", **slow)
        assert "Paris" in answer(page)
        states = {w["label"]: w["state"] for w in served.health()["workers"] if w["model"]}
        assert states[ECHO] == "parked" and states[SMOLLM2] in ("ready", "busy")
        page.close()
