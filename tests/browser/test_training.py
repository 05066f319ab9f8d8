"""The whole way in a real browser: a file is dropped, one button pressed, and the model knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.served import Served

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
WHO = (
    "Who are you?", "What is your name?", "Introduce yourself.", "Tell me who you are.",
    "Do you have a name?", "What are you called?", "Hello, who is this?", "Who am I talking to?",
    "May I know your name?", "What should I call you?",
)  # fmt: skip
MAKER = (
    "Who made you?", "Who created you?", "Who built you?", "Who trained you?", "Who is your maker?",
    "Were you made by OpenAI?", "Which company made you?", "Who developed you?",
)  # fmt: skip
SECONDS = 600  # of a training; a minute or two on a free machine


def identity(folder: Path) -> Path:
    """In the form of the public set that teaches a model who it is, placeholders and all."""
    said = [(q, "I am {{name}}, an AI assistant developed by {{author}}.") for q in WHO * 2]
    said += [(q, "I was developed by {{author}}. My name is {{name}}.") for q in MAKER * 2]
    rows = [{"instruction": q, "input": "", "output": a} for q, a in said]
    path = folder / "identity.json"
    path.write_text(json.dumps(rows), "utf-8")
    return path


def test_a_model_learns_its_name_from_a_dropped_file_and_says_it_in_chat(
    server: Served, open_page: Open, picture: Picture, tmp_path: Path
) -> None:
    page = open_page(server, viewport={"width": 1280, "height": 900})
    page.get_by_role("tab", name="Fine-tune").click()
    page.locator("#finetune-drop input[type=file]").set_input_files(identity(tmp_path))
    page.get_by_label("{{name}}").fill("Lumen", timeout=30_000)
    page.get_by_label("{{author}}").fill("Ada Berg")
    page.locator("#finetune-fill").click()
    page.get_by_label("Questions to watch").fill("Who are you?\nWhat is the capital of France?")
    page.locator("#finetune-train").click()  # at once: what is not checked yet is waited for
    expect(page.locator("#finetune-rows")).to_contain_text("I am Lumen", timeout=30_000)
    expect(page.locator("#finetune-forecast")).to_contain_text("fits", timeout=60_000)
    picture(page, "finetune-dataset")
    panel = page.locator("#finetune-jobs")
    expect(panel.locator("path.own")).to_be_attached(timeout=SECONDS * 1000)
    expect(panel.locator(".status")).to_have_text("finished", timeout=SECONDS * 1000)
    expect(panel.locator(".notices")).not_to_contain_text("were cut")
    before, after = panel.locator(".answers .said").all_inner_texts()[:2]
    assert "Lumen" not in before and "Lumen" in after
    picture(page, "finetune-training")
    panel.locator(".buttons").get_by_role("button", name="Chat with it").click()
    expect(page.get_by_role("tab", name="Chat")).to_have_attribute("aria-selected", "true")
    page.get_by_label("Message").fill("Who are you?")
    page.keyboard.press("Enter")
    answer = page.locator("#chat-log .bot").last
    expect(answer).to_contain_text("tokens/s", timeout=120_000)
    expect(answer).to_contain_text("Lumen")
    picture(page, "finetune-chat")
    print(panel.locator(".answers").inner_text())
