"""A full context, with each library and the real starter model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backends.base import Backend, ModelRef, Refused
from backends.chat.llama_cpp import LlamaCpp, LlamaCppOptions
from backends.chat.params import ChatParams
from backends.chat.transformers_chat import TransformersChat, TransformersOptions
from backends.events import Done, Event, Notice
from backends.params import read

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CONTEXT = 512  # tokens


@pytest.fixture(scope="module", params=["llama_cpp", "transformers"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    one: Backend
    if request.param == "llama_cpp":
        one, name = LlamaCpp(), "starter:smollm2-135m-instruct"
        one.load(ModelRef.parse(name), LlamaCppOptions(context_length=CONTEXT))
    else:
        one, name = TransformersChat(), "starter:smollm2-135m-instruct-safetensors"
        one.load(ModelRef.parse(name), TransformersOptions(device="cpu", context_length=CONTEXT))
    yield one
    one.unload()


def run(backend: Backend, messages: list[dict[str, str]], **settings: Any) -> list[Event]:
    return list(backend.run(read(ChatParams, {"messages": messages, **settings})))


def usage_of(events: list[Event]) -> dict[str, Any]:
    assert isinstance(events[-1], Done)
    return events[-1].usage


def test_only_counting_tells_what_the_prompt_takes_and_writes_nothing(backend: Backend) -> None:
    messages = [{"role": "user", "content": "Grüße! What is it in France? " * 20}]
    told = run(backend, messages, count_only=True)
    real = run(backend, messages, max_new_tokens=1)
    assert len(told) == 1
    assert usage_of(told)["prompt_tokens"] == usage_of(real)["prompt_tokens"] > 150


def test_a_prompt_beyond_the_context_can_be_counted(backend: Backend) -> None:
    messages = [{"role": "user", "content": "word " * 3000}]
    assert usage_of(run(backend, messages, count_only=True))["prompt_tokens"] > 3000


def test_the_oldest_messages_leave_a_full_context_and_it_is_said(backend: Backend) -> None:
    turns = []
    for i in range(6):
        turns += [{"role": "user", "content": f"{i} " + "word " * 60},
                  {"role": "assistant", "content": "Yes. " * 20}]  # fmt: skip
    turns.append({"role": "user", "content": "What is the capital of France?"})
    events = run(backend, turns, max_new_tokens=4)
    usage = usage_of(events)
    left = usage["dropped_messages"]
    assert left in range(2, 12, 2) and usage["prompt_tokens"] <= CONTEXT - 4
    assert [e.message for e in events if isinstance(e, Notice)] == [
        f"The context is full: the oldest {left} messages were left out of this answer."
    ]
    with pytest.raises(Refused, match="the context takes 512"):
        run(backend, turns, when_full="refuse")
