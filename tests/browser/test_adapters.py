"""An adapter attached, weighted and detached on the page, and what cannot be attached, said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from backends.base import ModelRef
from backends.models import library
from tests.backends.chat import made
from tests.served import Served, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with one adapter for the starter and one for another model."""
    import transformers

    home = tmp_path_factory.mktemp("adapters") / "home"
    copy = library.prepare(ModelRef.parse("starter:smollm2-135m-instruct-safetensors"))
    base = transformers.AutoModelForCausalLM.from_pretrained(copy)
    made.peft_adapter(home / "models" / "pirate", base, 1)
    made.change_config(home / "models" / "pirate", base_model_name_or_path="SmolLM2-135M-Instruct")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100,
    )  # fmt: skip
    made.peft_adapter(home / "models" / "foreign", transformers.LlamaForCausalLM(config))
    with serving(home) as server:
        yield server


def choose(page: Page, slot: int, name: str) -> None:
    page.locator(f"#chat-adapter-{slot} input").click()
    page.get_by_role("option", name=re.compile(f"^{name}")).click()


def weigh(page: Page, slot: int, weight: float) -> None:
    box = page.locator(f"#chat-adapter-weight-{slot} input[type=number]")
    box.fill(str(weight))
    box.blur()


def ask(page: Page) -> str:
    """One question in a new conversation; the whole answer."""
    page.locator("#chat-new").click()
    expect(page.locator("#chat-log .bot")).to_have_count(0)
    page.wait_for_timeout(1000)  # a new chat comes with an empty box
    page.locator("#chat-box textarea").fill("Name three colours.")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-log .bot")).to_have_count(1, timeout=60_000)
    expect(page.locator("#chat-stop")).to_be_hidden(timeout=90_000)
    expect(page.locator("#chat-log")).to_contain_text("tokens/s", timeout=60_000)
    return page.locator("#chat-log .bot .message-content, #chat-log .bot").last.inner_text()


def words(text: str) -> str:
    """The answer without the line of figures under it."""
    return re.split(r"\d[\d.]* tokens/s|·", text)[0].strip()


def settle_settings(page: Page) -> None:
    for name, value in (("temperature", 0), ("max-new-tokens", 12)):
        box = page.locator(f"#chat-{name} input[type=number]")
        box.fill(str(value))
        box.blur()


@pytest.mark.parametrize("width", [1440, 390])
def test_an_adapter_is_attached_weighted_and_detached(
    open_page: Open, picture: Picture, served: Served, width: int
) -> None:
    page = open_page(served, viewport={"width": width, "height": 900})
    settle_settings(page)
    base = words(ask(page))
    page.locator("#chat-adapters > button").click()
    about = page.locator("#chat-adapters-about")
    expect(about).to_contain_text("Put a PEFT folder or a GGUF file into")
    expect(page.locator("#chat-adapter-2")).to_be_hidden()
    choose(page, 1, "pirate")
    expect(about).to_contain_text("made for SmolLM2-135M-Instruct")
    expect(page.locator("#chat-adapter-2")).to_be_visible()
    page.locator("#chat-adapter-1").scroll_into_view_if_needed()
    picture(page, f"adapters-{width}")
    with_it = words(ask(page))
    assert with_it != base
    weigh(page, 1, 0)
    assert words(ask(page)) == base
    choose(page, 1, "none")
    expect(page.locator("#chat-adapter-weight-1")).to_be_hidden()
    assert words(ask(page)) == base


def test_one_for_another_model_is_refused_by_name_and_the_chat_goes_on(
    open_page: Open, picture: Picture, served: Served
) -> None:
    page = open_page(served, color_scheme="dark")
    settle_settings(page)
    page.locator("#chat-adapters > button").click()
    choose(page, 1, "foreign")
    page.locator("#chat-box textarea").fill("Name three colours.")
    page.locator("#chat-send").click()
    told = page.get_by_text(re.compile(r"adapter foreign was made for .*hidden size 64"))
    expect(told.first).to_be_visible(timeout=60_000)
    picture(page, "adapters-refused")
    choose(page, 1, "none")
    assert ask(page)
