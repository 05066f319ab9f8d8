"""From what a page asks for to an answer under way: first the store is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backends import BACKENDS
from backends.base import Refused
from backends.models.library import Listed
from backends.params import read
from webui.answers import Answer
from webui.attachments import Attachment, as_extra, as_prompt, attachments_of
from webui.bench import Bench
from webui.store import Message

Act = Literal["send", "retry", "continue", "edit"]


@dataclass(frozen=True)
class Wish:
    """What somebody wants in a conversation.

    act: send a new message, answer again, go on with an answer, or edit a message
    conversation: its id; empty: a new one
    message: the id of the message it is about; for `send` the one that the new one goes behind
    text: what was typed
    files: what goes into the message besides
    visitor: who asks, at the gate
    """

    act: Act
    conversation: str = ""
    message: str = ""
    text: str = ""
    files: Sequence[Attachment] = ()
    visitor: str = "owner"


@dataclass(frozen=True)
class Asked:
    """A model and how to use it. `settings` are a chat's parameters but for its messages."""

    listed: Listed
    options: dict[str, Any]
    settings: dict[str, Any]


def begin(bench: Bench, wish: Wish, asked: Asked) -> Answer | None:
    """Write the wish into the store and start the answer; None where an edit needs none.

    Raises Refused, or ValueError with two sentences; then nothing was changed.
    """
    before = prepare(bench, wish, asked)
    if before is None:
        return None
    if wish.act == "continue":
        return go_on(bench, wish, asked, before)
    return answer_behind(bench, before, asked, wish.visitor)


def prepare(bench: Bench, wish: Wish, asked: Asked) -> Message | None:
    """The message that the answer goes behind, or that it goes on with; None: there is none."""
    if wish.conversation and bench.answers.of(wish.conversation):
        raise Refused("The last answer is still being written.", "Stop it, or wait for its end.")
    store = bench.store
    if wish.act == "send":
        return add_question(bench, wish, asked)
    known = store.message(wish.message)
    if known is None:
        raise Refused("This message does not exist any more.", "Reload the page.")
    if wish.act == "continue":
        return known
    if wish.act == "edit":
        if known.role == "user":
            check(asked, wish.text)
        elif not wish.text.strip():
            raise ValueError("The answer is empty. Write something, or delete it.")
        made = store.edit(wish.message, wish.text)
        return made if made.role == "user" else None
    question = store.message(known.parent) if known.role == "assistant" else known
    if question is None or question.role != "user":
        raise Refused("There is nothing to answer again.", "Write a message first.")
    return question


def add_question(bench: Bench, wish: Wish, asked: Asked) -> Message:
    check(asked, wish.text or ("-" if wish.files else ""))
    store = bench.store
    known = wish.conversation and store.conversation(wish.conversation)
    extra = as_extra(wish.files) if wish.files else None
    title = wish.text or (wish.files[0].name if wish.files else "")
    conversation = (
        wish.conversation
        if known
        else store.new_conversation(title, asked.listed.id, asked.settings).id
    )
    # Behind what this page shows: another browser tab may have gone on elsewhere meanwhile.
    parent = wish.message if known else ""
    return store.add_message(conversation, "user", wish.text, parent=parent, extra=extra)


def check(asked: Asked, text: str) -> None:
    """Raises ValueError for settings or a message that no model would take."""
    card = BACKENDS[asked.listed.backend].card
    read(card.params, {**asked.settings, "messages": [{"role": "user", "content": text}]})


def answer_behind(
    bench: Bench, question: Message, asked: Asked, visitor: str, after: Answer | None = None
) -> Answer:
    """A new answer to `question`, beside the ones it has."""
    turns = turns_up_to(bench, question)
    message = bench.store.add_message(
        question.conversation, "assistant", "", state="streaming", model=asked.listed.id,
        parent=question.id, extra={"settings": asked.settings},
    )  # fmt: skip
    return start(bench, message, asked, turns, visitor, after=after)


def go_on(bench: Bench, wish: Wish, asked: Asked, answer: Message) -> Answer:
    """Continue an answer that was stopped or cut, in its place."""
    text = answer.text.rstrip()
    if answer.role != "assistant" or not text:
        raise Refused("There is nothing to go on with.", "Retry the answer instead.")
    turns = turns_up_to(bench, answer)
    bench.store.reopen_message(answer.id)
    return start(bench, answer, asked, turns, wish.visitor, text=text)


def start(
    bench: Bench, message: Message, asked: Asked, turns: list[dict[str, str]], visitor: str,
    text: str = "", after: Answer | None = None,
) -> Answer:  # fmt: skip
    return bench.answers.start(
        message.conversation, message.id, asked.listed, {**asked.settings, "messages": turns},
        options=asked.options, visitor=visitor, text=text, after=after,
    )  # fmt: skip


def turns_up_to(bench: Bench, last: Message) -> list[dict[str, str]]:
    """The branch that ends with `last`, as a model is asked: files in, empty answers out."""
    branch = [m for m in bench.store.branch(last.id) if m.text or m.role == "user"]
    return [{"role": m.role, "content": content_of(m)} for m in branch]


def content_of(message: Message) -> str:
    files = attachments_of(message.extra)
    text = message.text.rstrip() if message.role == "assistant" else message.text
    return as_prompt(files, text) if files else text
