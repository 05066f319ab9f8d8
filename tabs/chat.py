"""Chat: pick a model, talk, stop, regenerate; every word is saved while it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.models.library import Listed
from backends.params import read
from webui.answers import Answer
from webui.bench import Bench
from webui.chat_view import chatbot_value, status_of
from webui.conversation_panel import build_conversation_list, conversation_list, selected
from webui.form import Form, build_form
from webui.model_picker import Picker, build_model_picker, line, model_status, problem
from webui.store import Message

TITLE = "Chat"
LISTED = 60  # conversations in the list
VIEWS = 1000  # open pages to keep in mind
PLACEHOLDER = (
    "### Ask something\nThe model on the right answers. It loads by itself with your first message."
)
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
SAME_AGAIN = "At temperature 0 the answer stays the same. Raise it to get another one."
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


class Views:
    """What each browser page looks at: a follower of something else keeps quiet.

    `begun` holds the answer that a page has just begun, until it follows it.
    """

    def __init__(self) -> None:
        self.begun: dict[str, Answer] = {}
        self._newest: dict[str, int] = {}

    def take(self, page: str) -> View:
        self._newest[page] = self._newest.pop(page, 0) + 1
        while len(self._newest) > VIEWS:
            del self._newest[next(iter(self._newest))]
        return View(self, page, self._newest[page])

    def newest(self, page: str) -> int:
        return self._newest.get(page, 0)


@dataclass(frozen=True)
class View:
    """One look of one page at one conversation, until the page looks at another."""

    views: Views
    page: str
    number: int

    @property
    def current(self) -> bool:
        return self.views.newest(self.page) == self.number


@dataclass(frozen=True)
class Asked:
    """A press of Send, or of Retry where `text` is None. `values` are the settings as shown."""

    text: str | None
    current: str
    values: tuple[Any, ...]
    page: str


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
                first = picker.first
                form = build_form(
                    ChatParams, prefix="chat", values=first.settings if first else None
                )
    current = gr.Textbox(visible=False, elem_id="chat-current")
    parts = Parts(current, conversations, log, status, box, send, stop)
    _wire(bench, parts, picker, form, new)


def _wire(bench: Bench, parts: Parts, picker: Picker, form: Form, new: Any) -> None:
    settings = [*picker.inputs, *form.components]

    views = Views()

    async def send(request: gr.Request, text: str, current: str, *values: Any) -> dict[Any, Any]:
        asked = Asked(text, current, values, page_of(request))
        return begin(bench, views, parts, picker, form, asked)

    async def again(request: gr.Request, current: str, *values: Any) -> dict[Any, Any]:
        asked = Asked(None, current, values, page_of(request))
        return begin(bench, views, parts, picker, form, asked)

    async def follow_begun(request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        answer = views.begun.pop(page_of(request), None)
        if answer is None:
            yield {parts.log: gr.skip()}
            return
        view = views.take(page_of(request))
        async for update in follow(bench, parts, answer.conversation, view, answer):
            yield update

    async def open_first(request: gr.Request, current: str) -> AsyncIterator[dict[Any, Any]]:
        if views.newest(page_of(request)):  # somebody was quicker than the page's own start
            yield {parts.log: gr.skip()}
            return
        if bench.store.notice:
            yield {parts.status: line(bench.store.notice, "note")}
        async for update in follow(bench, parts, current, views.take(page_of(request))):
            yield update

    async def choose(request: gr.Request, event: gr.EventData) -> AsyncIterator[dict[Any, Any]]:
        yield {parts.status: ""}
        async for update in follow(bench, parts, selected(event), views.take(page_of(request))):
            yield update

    async def stop(current: str) -> None:  # async: a plain function would run in a thread
        if answer := bench.answers.of(current):
            bench.answers.stop(answer)

    def start_new(request: gr.Request) -> dict[Any, Any]:
        views.take(page_of(request))
        return {**shown(bench, parts, ""), parts.status: ""}

    def listed_as(name: str) -> Listed | None:
        return next((m for m in bench.models("chat") if m.id == name), None)

    def state_of_model(name: str) -> str:
        return model_status(bench, listed_as(name))

    def settings_of_model(name: str) -> list[Any]:
        listed = listed_as(name)
        return form.fill(listed.settings if listed else {})

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    sent = gr.on(
        [parts.send.click, parts.box.submit], send, [parts.box, parts.current, *settings],
        [*parts.outputs(), parts.box], **quiet,
    )  # fmt: skip
    retried = parts.log.retry(
        again, [parts.current, *settings], [*parts.outputs(), parts.box], **quiet
    )
    for event in (sent, retried):
        # Beginning is short, so that Send works again at once, also in another conversation.
        event.then(follow_begun, None, parts.outputs(), trigger_mode="multiple", **quiet).then(
            state_of_model, picker.model, picker.status, queue=False, **quiet
        )
    picker.model.change(
        settings_of_model, picker.model, list(form.components), queue=False, **quiet
    )
    parts.stop.click(stop, parts.current, None, queue=False, **quiet)
    new.click(start_new, None, parts.outputs(), queue=False, **quiet)
    parts.conversations.select(choose, None, parts.outputs(), trigger_mode="multiple", **quiet)
    parts.current.change(None, parts.current, parts.current, js=REMEMBER)
    gr.context.Context.root_block.load(
        open_first, parts.current, parts.outputs(), js=REMEMBERED, **quiet
    )


def page_of(request: gr.Request) -> str:
    """One open browser page; at the gate, one visitor."""
    return f"page:{request.session_hash}"


def begin(
    bench: Bench, views: Views, parts: Parts, picker: Picker, form: Form, asked: Asked
) -> dict[Any, Any]:
    """Write the question into the store and start the answer, or say why not."""
    views.take(asked.page)
    under_way = bench.answers.of(asked.current)
    try:
        count = len(picker.inputs)
        listed, options = picker.chosen(asked.values[:count])
        settings = form.read(asked.values[count:])
        conversation = prepare(bench, asked, settings, listed.id)
        history = [m for m in bench.store.messages(conversation) if m.text or m.role == "user"]
        turns = [{"role": m.role, "content": m.text} for m in history]
        message = bench.store.add_message(
            conversation, "assistant", "", state="streaming", model=listed.id
        )
    except (Refused, ValueError) as error:
        if under_way:  # begun in another browser tab: show it, with its Stop
            views.begun[asked.page] = under_way
        return {parts.status: problem(str(error))}
    answer = views.begun[asked.page] = bench.answers.start(
        conversation, message.id, listed, {**settings, "messages": turns},
        options=options, visitor=asked.page,
    )  # fmt: skip
    same = asked.text is None and not settings.get("temperature")
    return {
        parts.box: gr.skip() if asked.text is None else "",
        **shown(bench, parts, answer.conversation),
        parts.status: line(SAME_AGAIN, "note") if same else "",
    }


def prepare(bench: Bench, asked: Asked, settings: dict[str, Any], model: str) -> str:
    """The conversation to answer in, its last message the user's. Raises Refused or ValueError."""
    text, current = asked.text, asked.current
    if bench.answers.of(current):
        raise Refused("The last answer is still being written.", "Stop it, or wait for its end.")
    if text is None:
        turns = bench.store.messages(current)
        questions = [m for m in turns if m.role == "user"]
        if not questions:
            raise Refused("There is nothing to answer again.", "Write a message first.")
        bench.store.rewind(current, questions[-1].id)
        return current
    read(ChatParams, {**settings, "messages": [{"role": "user", "content": text}]})
    known = current and bench.store.conversation(current)
    conversation = current if known else bench.store.new_conversation(text, model, settings).id
    bench.store.add_message(conversation, "user", text)
    return conversation


async def follow(
    bench: Bench, parts: Parts, current: str, view: View, answer: Answer | None = None
) -> AsyncIterator[dict[Any, Any]]:
    """Show a conversation; where an answer is under way in it, until that ends.

    When the page turns to another conversation this goes on silently: the answer is still watched.
    """
    answer = answer or bench.answers.of(current)
    yield shown(bench, parts, current)
    if answer is None:
        return
    messages, told = messages_of(bench, current), ""
    async for live in answer.watch():
        now: dict[Any, Any] = {parts.log: chatbot_value(messages, live)}
        if status_of(live) != told:
            told = status_of(live)
            now[parts.status] = told
        yield now if view.current else {parts.log: gr.skip()}
    if view.current:
        yield shown(bench, parts, current)


def messages_of(bench: Bench, current: str) -> list[Message]:
    """The open branch; empty where the store cannot be read, which `shown` says."""
    try:
        return bench.store.messages(current) if current else []
    except Refused:
        return []


def shown(bench: Bench, parts: Parts, current: str) -> dict[Any, Any]:
    """Everything that depends on which conversation is open."""
    answer = bench.answers.of(current)
    try:
        listed = conversation_list(bench.store.conversations(LISTED), current)
    except Refused as refused:
        listed = problem(str(refused))
    return {
        parts.current: current,
        parts.conversations: listed,
        parts.log: chatbot_value(messages_of(bench, current), answer),
        parts.send: gr.Button(visible=answer is None),
        parts.stop: gr.Button(visible=answer is not None),
    }
