"""A visitor's question and its answer. Nothing of it is written to a disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.events import Done, Failed, Progress, Text
from webui.answers import ALONE, Answer
from webui.demo.quota import Visitor
from webui.demo.state import Demo
from webui.gate import Busy

if TYPE_CHECKING:
    from webui.bench import Bench

NOT_THERE = Refused(
    "The model of this demo is not loaded at the moment.", "Try again later, or tell its owner."
)
# What went wrong inside is for the owner, not for guests: paths stand in it.
BROKE = (
    "The answer could not be made. Send it again, or start a new chat; "
    "if it stays so, tell the owner."
)


def ask(bench: Bench, demo: Demo, visitor: Visitor, text: str) -> Answer:
    """Begin an answer. Raises Refused, in words for the visitor."""
    terms = demo.offer.terms
    if demo.ended:
        raise Refused("This demo has ended.", "Ask its owner for another one.")
    if visitor.answer and visitor.answer.task and not visitor.answer.task.done():
        raise Refused("Your last answer is still being written.", "Stop it, or wait for its end.")
    if not text.strip():
        raise Refused("The message is empty.", "Write something to send.")
    if len(text) > terms.characters:
        raise Refused(
            f"The message has {len(text):,} characters, and {terms.characters:,} are allowed.",
            "Shorten it.",
        )
    if not demo.visitors.left(visitor):
        raise Refused(
            f"You have used all {terms.messages} messages of this demo.",
            "Ask its owner if you would like more.",
        )
    resident = bench.resident_of(demo.offer.listed)
    if resident is None or resident.options != demo.offer.options:
        raise NOT_THERE
    visitor.used += 1
    visitor.question = text
    answer = visitor.answer = Answer(demo.id, visitor.id)
    answer.task = asyncio.get_running_loop().create_task(_carry(bench, demo, visitor, answer))
    return answer


def stop(answer: Answer) -> None:
    """End it and keep its text. Returns at once."""
    answer.stopping = True
    if answer.call:
        answer.call.cancel()
    elif answer.task:
        answer.task.cancel()


def answered(visitor: Visitor) -> list[tuple[str, str]]:
    """The turns that came to an answer, the only ones for the model."""
    return [turn for turn in visitor.turns if turn[1]]


def remembered(demo: Demo, visitor: Visitor) -> list[tuple[str, str]]:
    """The last turns that the model still sees: no more characters than the terms allow."""
    kept, room = [], demo.offer.terms.history
    for question, answer in reversed(answered(visitor)):
        room -= len(question) + len(answer)
        if room < 0:
            break
        kept.append((question, answer))
    return kept[::-1]


def parameters(demo: Demo, visitor: Visitor) -> dict[str, Any]:
    """The owner's settings, with the visitor's messages and the demo's limit on tokens."""
    messages = []
    for question, answer in [*remembered(demo, visitor), (visitor.question, "")]:
        messages.append({"role": "user", "content": question})
        messages += [{"role": "assistant", "content": answer}] if answer else []
    settings, most = demo.offer.settings, demo.offer.terms.tokens
    wished = int(settings.get("max_new_tokens", most))
    return {**settings, "max_new_tokens": min(most, wished), "messages": messages}


async def _carry(bench: Bench, demo: Demo, visitor: Visitor, answer: Answer) -> None:
    keeper = asyncio.get_running_loop().create_task(_stop_where_alone(answer))

    def on_call(call: Any) -> None:
        answer.call = call
        if answer.stopping:
            call.cancel()

    try:
        events = bench.generate(
            demo.offer.listed, parameters(demo, visitor), f"demo:{visitor.id}",
            on_call=on_call, guest=True,
        )  # fmt: skip
        async with contextlib.aclosing(events):
            async for event in events:
                _take(answer, event)
    except asyncio.CancelledError:
        answer.state = "stopped"
    except Busy as busy:
        answer.state, answer.note = "failed", str(busy)
    except Exception:
        logging.getLogger(__name__).exception("an answer of a demo")
        answer.state, answer.note = "failed", BROKE
    finally:
        keeper.cancel()
        if answer.state not in ("done", "failed"):
            answer.state = "stopped"
        answer.call = None
        if answer.state == "failed" and not answer.text:
            visitor.used -= 1  # not the visitor's fault
        visitor.turns.append((visitor.question, answer.text))  # a question stays to be seen
        visitor.answer = None
        answer.bump()


def _take(answer: Answer, event: Any) -> None:
    if isinstance(event, Text):
        answer.state, answer.status = "running", ""
        answer.text += event.delta
    elif isinstance(event, Progress):
        answer.state, answer.status = "loading", "The model is being started again"
    elif isinstance(event, Failed):
        answer.state, answer.note = "failed", BROKE
        logging.getLogger(__name__).warning("an answer of a demo failed: %s", event)
    elif isinstance(event, Done):
        answer.state = "stopped" if event.cancelled else "done"
        if event.usage.get("dropped_messages"):
            answer.note = "The chat has grown long: the model no longer sees its beginning."
        if event.usage.get("finish_reason") == "length":
            answer.note = "Cut off here: answers of this demo have a limit."
    elif position := getattr(event, "position", 0):
        answer.state, answer.status = "waiting", f"Busy: position {position}"
    answer.bump()


async def _stop_where_alone(answer: Answer) -> None:
    """A visitor who has gone frees the card."""
    while answer.watchers or time.monotonic() - answer.alone_since <= ALONE:
        await asyncio.sleep(0.5)
    stop(answer)
