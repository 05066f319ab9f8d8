"""Tokens per second through everything of ours, against the same library called in a loop.

Both sides: the same file, threads and load options, the same prompt, greedy, the same number of
new tokens (and it is checked that the text is the same). Both have answered before, so nothing
loads. What counts is the writing: tokens after the first, by the time from the first to the last,
as they arrive at the side that asked. The wait for the first token is shown beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import browser
from benchmarks.load import make_copy
from benchmarks.measure import (
    Bar,
    CannotRun,
    Plan,
    Row,
    end,
    interleaved,
    median_ratio,
    spread,
)  # fmt: skip
from benchmarks.server import CHECKOUT, Served, environment, serving
from benchmarks.starter import GGUF, SAFETENSORS, STORY

LLAMA = Bar("tokens/s through /v1, against xllamacpp in a loop", 0.95, at_least=True, digits=3)
PAGE = Bar("tokens/s in the page in Chromium, against that loop", 0.85, at_least=True, digits=3)
TORCH = Bar("tokens/s through /v1, against transformers in a loop", 0.95, at_least=True, digits=3)
BARS = (LLAMA, PAGE, TORCH)
PATIENCE = 180.0  # seconds for one answer, or for the library to load


@dataclass(frozen=True)
class Answer:
    """One answer: how many tokens, seconds to the first and from the first to the last."""

    tokens: int
    first: float
    decode: float
    text: str = ""

    @property
    def speed(self) -> float:
        return (self.tokens - 1) / self.decode if self.decode else 0.0


def measure(plan: Plan) -> Iterator[Row]:
    """The page comes first: whatever the page loads with, /v1 then uses too."""
    with serving(plan.home("tokens")) as served:
        page = tried(PAGE, lambda: in_page(served, plan))
        yield tried(LLAMA, lambda: against(LLAMA, served, GGUF, plan.tokens, plan))
        yield page
        yield tried(TORCH, lambda: against(TORCH, served, SAFETENSORS, plan.tokens // 4, plan))


def tried(bar: Bar, row: Callable[[], Row]) -> Row:
    """One row that cannot be measured does not take the others along."""
    try:
        return row()
    except CannotRun as error:
        return bar.missing(str(error))


def against(bar: Bar, served: Served, name: str, tokens: int, plan: Plan) -> Row:
    """A model through /v1 and its library in a loop, in pairs."""
    make_copy(name)
    through_api(served, name, 8)
    served.settle()
    with looping(name, tokens) as loop:
        plan.say(f"tokens: {name} through /v1, {plan.pairs} pairs")
        pairs = list(interleaved(lambda: through_api(served, name, tokens), loop.ask, plan.pairs))
    return compared(bar, pairs)


def compared(bar: Bar, pairs: list[tuple[Answer, Answer]], note: str = "") -> Row:
    """The row; raises CannotRun where the two sides did not do the same work."""
    ours, loops = zip(*pairs, strict=True)
    counts = {answer.tokens for answer in (*ours, *loops)}
    if len(counts) > 1:
        raise CannotRun(f"The two sides wrote different numbers of tokens: {sorted(counts)}.")
    texts = {answer.text.strip() for answer in (*ours, *loops) if answer.text}
    if len(texts) > 1:
        note += "; the texts DIFFER"
    mine, theirs = [a.speed for a in ours], [a.speed for a in loops]
    return bar.row(
        median_ratio(list(zip(mine, theirs, strict=True))),
        f"{spread(mine, digits=1)} against {spread(theirs, digits=1)} tokens/s, {counts.pop()} "
        f"tokens, {len(pairs)} pairs; first token after {median(a.first for a in ours):.3f} s "
        f"against {median(a.first for a in loops):.3f} s{note}",
        ours=mine, loop=theirs,
    )  # fmt: skip


# Through /v1


def through_api(served: Served, name: str, tokens: int) -> Answer:
    """Streamed through door, gate, pipe and worker, as the client sees the chunks arrive."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": STORY}],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    came: list[tuple[float, str]] = []
    with served.client() as client:
        client.get("/healthz")  # the connection is there
        began = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    came.append((time.monotonic(), line))
    chunks = [(at, json.loads(line.removeprefix("data: "))) for at, line in came]
    if problem := next((c["error"]["message"] for _, c in chunks if "error" in c), ""):
        raise CannotRun(f"The answer through /v1 failed: {problem}")
    texts = [
        (at, choice["delta"]["content"])
        for at, chunk in chunks
        for choice in chunk["choices"]
        if choice["delta"].get("content")
    ]
    used = int(chunks[-1][1]["usage"]["completion_tokens"])
    first, last = texts[0][0], texts[-1][0]
    return Answer(used, first - began, last - first, "".join(text for _, text in texts))


# Through the page


def in_page(served: Served, plan: Plan) -> Row:
    """The page open on Chat, seen, its strip polling, the answer streaming in it.

    The speed is the one that the page writes below the answer: tokens by the clock of the worker,
    from the first to the last. The page is closed while the loop runs, which is alone then.
    """
    whole: list[float] = []

    def ours() -> Answer:
        with browser.opened(chromium, served) as page:
            browser.set_number(page, "chat-temperature", 0)
            browser.set_number(page, "chat-max-new-tokens", plan.tokens)
            page.wait_for_timeout(2000)  # what opening a page costs is not the answer's
            began = time.monotonic()
            browser.send(page, STORY)
            said = browser.answered(page, PATIENCE)
            whole.append(time.monotonic() - began)
        return read_usage(said)

    with browser.browsing() as chromium:
        ours()  # loads
        served.settle()
        whole.clear()
        with looping(GGUF, plan.tokens) as loop:
            plan.say(f"tokens: in the page, {plan.pairs} pairs")
            pairs = list(interleaved(ours, loop.ask, plan.pairs))
    return compared(PAGE, pairs, f"; from Send to the finished answer {spread(whole, ' s')}")


def read_usage(said: str) -> Answer:
    """From "400 tokens · 80.1 tokens/s · first after 0.10 s"."""
    numbers = {part.partition(" ")[2]: part.partition(" ")[0] for part in said.split(" · ")}
    try:
        tokens, speed = int(numbers["tokens"]), float(numbers["tokens/s"])
        first = next(p.split()[2] for p in said.split(" · ") if p.startswith("first after"))
    except (KeyError, ValueError, StopIteration) as error:
        raise CannotRun(f"The page said {said!r} below the answer, which has no speed.") from error
    return Answer(tokens, float(first), (tokens - 1) / speed)


# The library alone


class Loop:
    """`benchmarks.direct`, ready: each `ask` is one answer."""

    def __init__(self, process: subprocess.Popen[str], what: str) -> None:
        self.process, self.what = process, what

    def ask(self) -> Answer:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Answer(**self.line())

    def line(self) -> dict[str, Any]:
        """The next line, as JSON. One that does not come in time ends the process."""
        assert self.process.stdout
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise CannotRun(f"The library alone gave no answer with {self.what}.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def looping(name: str, tokens: int) -> Iterator[Loop]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.direct", name, STORY, str(tokens)],
        cwd=CHECKOUT, env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        loop = Loop(process, name)
        loop.line()
        yield loop
    finally:
        end(process)
