"""Talking to a loaded chat backend, and what every chat backend owes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from backends.base import Backend
from backends.chat.params import ChatParams, Message
from backends.events import Done, Event, Progress, Text

SYSTEM = "You are a helpful assistant."
CAPITAL = "What is the capital of France?"
STORY = "Tell me a long story about a village."
FOX = "The quick brown fox jumps over the lazy dog. "
REPEAT = "Repeat: 😀🎉 Grüße, مرحبا"
HARD = "Grüße aus Köln, ß! 😀👩‍👩‍👧 مرحبا بالعالم 你好 NUL:\0 end"
USAGE = {
    "prompt_tokens", "completion_tokens", "finish_reason", "first_token_seconds", "seconds",
    "tokens_per_second", "seed", "context_length",
}  # fmt: skip


def ask(text: str | tuple[Message, ...], **given: Any) -> ChatParams:
    messages = (Message("user", text),) if isinstance(text, str) else text
    return ChatParams(messages=messages, **{"system": SYSTEM, **given})


def events(backend: Backend, text: str | tuple[Message, ...], **given: Any) -> list[Event]:
    return list(backend.run(ask(text, **given)))


def answer(backend: Backend, text: str | tuple[Message, ...], **given: Any) -> tuple[str, Done]:
    """The whole answer and its end."""
    found = events(backend, text, **given)
    done = found[-1]
    assert isinstance(done, Done)
    return "".join(e.delta for e in found if isinstance(e, Text)), done


def seconds_to_close(run: Iterator[Event], kind: type[Event]) -> float:
    """Wait for the first event of a kind, then close the run; how long that took."""
    assert any(isinstance(event, kind) for event in run)
    started = time.monotonic()
    run.close()  # type: ignore[attr-defined]
    return time.monotonic() - started


def cancelled_after(backend: Backend, kind: type[Event], text: str, count: int = 3) -> list[Event]:
    """What a run still says when Stop is pressed after `count` events of a kind."""
    pressed = False
    backend.cancelled = lambda: pressed
    found: list[Event] = []
    seen = itertools.count(1)
    try:
        for event in backend.run(ask(text, max_new_tokens=2000, seed=1)):
            if pressed:
                found.append(event)
            if isinstance(event, kind) and next(seen) == count:
                pressed = True
    finally:
        del backend.cancelled
    return found


def check_settings(backend: Backend) -> None:
    """Each setting does what it says, told apart by what the answer becomes."""
    greedy, done = answer(backend, STORY, temperature=0, max_new_tokens=8)
    assert done.usage["completion_tokens"] == 8 and done.usage["finish_reason"] == "length"
    wild = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 5}
    wild["max_new_tokens"] = 8
    free = answer(backend, STORY, **wild)[0]
    assert free != greedy
    for only_the_likeliest in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}, {"temperature": 0}):
        assert answer(backend, STORY, **{**wild, **only_the_likeliest})[0] == greedy
    assert answer(backend, STORY, **wild)[0] == free
    assert answer(backend, STORY, **{**wild, "seed": 6})[0] != free
    penalised = {"temperature": 0, "max_new_tokens": 8, "repetition_penalty": 1.9}
    assert answer(backend, STORY, **penalised)[0] != greedy


def check_stop_strings(backend: Backend) -> None:
    whole, _ = answer(backend, CAPITAL, temperature=0)
    cut, done = answer(backend, CAPITAL, temperature=0, stop=("never", whole[10:14]))
    assert cut == whole[:10] and done.usage["finish_reason"] == "stop"


def check_stop_pressed(backend: Backend) -> None:
    """Stop, while it writes and while it reads, ends the run within a token or a chunk."""
    writing = cancelled_after(backend, Text, STORY)
    assert len(writing) <= 3 and isinstance(writing[-1], Done)
    assert writing[-1].cancelled and 3 <= writing[-1].usage["completion_tokens"] <= 5
    started = time.monotonic()
    reading = cancelled_after(backend, Progress, FOX * 150)
    assert time.monotonic() - started < 4
    assert len(reading) <= 2 and isinstance(reading[-1], Done) and reading[-1].cancelled
    assert not any(isinstance(event, Text) for event in reading)
    assert "Paris" in answer(backend, CAPITAL, temperature=0)[0]


def drained(generator: Any) -> Any:
    """What a generator returns at its end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
