"""Chat: pick a model, talk, stop, regenerate; every word is saved while it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.params import read
from webui.bench import Bench
from webui.chat_view import chatbot_value, status_of
from webui.conversation_panel import build_conversation_list, conversation_list, selected
from webui.form import Form, build_form
from webui.model_picker import Picker, build_model_picker, model_status, problem

TITLE = "Chat"
LISTED = 60  # conversations in the list
PLACEHOLDER = (
    "### Ask something\nThe model on the right answers. It loads by itself with your first message."
)
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
REMEMBERED = "() => [localStorage.getItem('werkbank.conversation') || '']"
REMEMBER = "(id) => { localStorage.setItem('werkbank.conversation', id); return id; }"


@dataclass(frozen=True)
class Parts:
    """The components that handlers fill."""

    current: Any
    conversations: Any
    log: Any
    status: Any
    box: Any
    send: Any
    stop: Any

    def outputs(self) -> list[Any]:
        return [self.current, self.conversations, self.log, self.status, self.send, self.stop]


def build(bench: Bench) -> None:
    with gr.Row(elem_classes="work", elem_id="chat"):
        with gr.Column(scale=1, min_width=180, elem_classes="left"):
            new = gr.Button("New chat", size="sm", elem_id="chat-new")
            conversations = build_conversation_list()
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            log = gr.Chatbot(
                elem_id="chat-log", show_label=False, height="calc(100vh - 250px)",
                min_height=240, placeholder=PLACEHOLDER, buttons=["copy", "copy_all"],
                latex_delimiters=LATEX, reasoning_tags=[("<think>", "</think>")],
                allow_tags=False, layout="bubble", feedback_options=None,
            )  # fmt: skip
            status = gr.HTML(elem_id="chat-status")
            with gr.Row(elem_classes="composer"):
                box = gr.Textbox(
                    show_label=False, label="Message", placeholder="Message", lines=1, max_lines=12,
                    container=False, scale=8, elem_id="chat-box", autofocus=True,
                )  # fmt: skip
                send = gr.Button("Send", variant="primary", min_width=70, elem_id="chat-send")
                stop = gr.Button(
                    "Stop", variant="stop", min_width=70, visible=False, elem_id="chat-stop"
                )
        with gr.Column(scale=2, min_width=260, elem_classes="right"):
            picker = build_model_picker(bench, "chat")
            with gr.Group(elem_classes="panel"):
                form = build_form(ChatParams, prefix="chat")
    current = gr.Textbox(visible=False, elem_id="chat-current")
    parts = Parts(current, conversations, log, status, box, send, stop)
    _wire(bench, parts, picker, form, new)


def _wire(bench: Bench, parts: Parts, picker: Picker, form: Form, new: Any) -> None:
    settings = [*picker.inputs, *form.components]

    async def send(text: str, current: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        async for update in ask(bench, parts, picker, form, text, current, values):
            yield update

    async def again(current: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        async for update in ask(bench, parts, picker, form, None, current, values):
            yield update

    async def open_one(current: str) -> AsyncIterator[dict[Any, Any]]:
        async for update in follow(bench, parts, current):
            yield update

    async def choose(event: gr.EventData) -> AsyncIterator[dict[Any, Any]]:
        async for update in follow(bench, parts, selected(event)):
            yield update

    def stop(current: str) -> None:
        if answer := bench.answers.of(current):
            bench.answers.stop(answer)

    def start_new() -> dict[Any, Any]:
        return {**shown(bench, parts, ""), parts.box: ""}

    def state_of_model(name: str) -> str:
        return model_status(bench, next((m for m in bench.models("chat") if m.id == name), None))

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    sent = gr.on(
        [parts.send.click, parts.box.submit], send, [parts.box, parts.current, *settings],
        [*parts.outputs(), parts.box], **quiet,
    )  # fmt: skip
    retried = parts.log.retry(again, [parts.current, *settings], parts.outputs(), **quiet)
    for event in (sent, retried):
        event.then(state_of_model, picker.model, picker.status, queue=False, **quiet)
    parts.stop.click(stop, parts.current, None, queue=False, **quiet)
    new.click(start_new, None, [*parts.outputs(), parts.box], queue=False, **quiet)
    parts.conversations.select(choose, None, parts.outputs(), **quiet)
    parts.current.change(None, parts.current, parts.current, js=REMEMBER)
    gr.context.Context.root_block.load(
        open_one, parts.current, parts.outputs(), js=REMEMBERED, **quiet
    )


async def ask(
    bench: Bench,
    parts: Parts,
    picker: Picker,
    form: Form,
    text: str | None,
    current: str,
    values: tuple[Any, ...],
) -> AsyncIterator[dict[Any, Any]]:
    """Send `text`, or answer the last message again where it is None; then follow the answer."""
    try:
        count = len(picker.inputs)
        listed, options = picker.chosen(values[:count])
        settings = form.read(values[count:])
        conversation = prepare(bench, text, current, settings, listed.id)
    except (Refused, ValueError) as error:
        yield (
            {parts.status: problem(str(error)), parts.box: gr.skip()}
            if text is not None
            else {parts.status: problem(str(error))}
        )
        return
    history = [m for m in bench.store.messages(conversation) if m.text or m.role == "user"]
    turns = [{"role": m.role, "content": m.text} for m in history]
    message = bench.store.add_message(
        conversation, "assistant", "", state="streaming", model=listed.id
    )
    loaded = bench.resident_of(listed)
    bench.answers.start(
        conversation, message.id, listed, {**settings, "messages": turns},
        options=options if loaded is None or loaded.options != options else None,
    )  # fmt: skip
    if text is not None:
        yield {parts.box: "", **shown(bench, parts, conversation)}
    async for update in follow(bench, parts, conversation):
        yield update


def prepare(
    bench: Bench, text: str | None, current: str, settings: dict[str, Any], model: str
) -> str:
    """The conversation to answer in, its last message the user's. Raises Refused or ValueError."""
    if bench.answers.of(current):
        raise Refused("The last answer is still being written.", "Stop it, or wait for its end.")
    if text is None:
        turns = bench.store.messages(current)
        asked = [m for m in turns if m.role == "user"]
        if not asked:
            raise Refused("There is nothing to answer again.", "Write a message first.")
        bench.store.rewind(current, asked[-1].id)
        return current
    read(ChatParams, {**settings, "messages": [{"role": "user", "content": text}]})
    known = current and bench.store.conversation(current)
    conversation = current if known else bench.store.new_conversation(text, model, settings).id
    bench.store.add_message(conversation, "user", text)
    return conversation


async def follow(bench: Bench, parts: Parts, current: str) -> AsyncIterator[dict[Any, Any]]:
    """Show a conversation; where an answer is under way in it, until that ends."""
    answer = bench.answers.of(current)
    yield shown(bench, parts, current)
    if answer is None:
        return
    messages = bench.store.messages(current)
    async for live in answer.watch():
        yield {parts.log: chatbot_value(messages, live), parts.status: status_of(live)}
    yield {**shown(bench, parts, current), parts.status: status_of(answer)}


def shown(bench: Bench, parts: Parts, current: str) -> dict[Any, Any]:
    """Everything that depends on which conversation is open."""
    answer = bench.answers.of(current)
    messages = bench.store.messages(current) if current else []
    return {
        parts.current: current,
        parts.conversations: conversation_list(bench.store.conversations(LISTED), current),
        parts.log: chatbot_value(messages, answer),
        parts.status: status_of(answer) if answer else "",
        parts.send: gr.Button(visible=answer is None),
        parts.stop: gr.Button(visible=answer is not None),
    }
