"""Chat: pick a model, talk, branch, compare; every word is saved while it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.models.library import Listed
from webui.adapter_picker import FormWithAdapters, with_adapters
from webui.answers import Answer, watch
from webui.bench import Bench
from webui.chat.attach import Attach, build_attach
from webui.chat.buttons import Pressed, build_buttons, new_key, pressed
from webui.chat.compare import Compare, build_compare
from webui.chat.follow import Views, shown_of
from webui.chat.pair import begin_pair, open_pair
from webui.chat.turns import Asked, Wish, begin
from webui.chat.view import chatbot_value, deleted_line, meter, status_of
from webui.conversation_panel import Panel, build_conversation_panel, selected
from webui.demo.panel import build_share
from webui.form import build_form
from webui.hand_over import TURN, handed_of
from webui.model_picker import Picker, build_model_picker, line, problem
from webui.opening import first_of_all
from webui.preset_picker import build_preset_picker

TITLE = "Chat"
PLACEHOLDER = (
    "### Ask something\nThe model on the right answers. It loads by itself with your first message."
)
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
DECIDED = "This was decided already, in another tab perhaps. Good and Bad change a vote."
GONE = "{} is not on this machine any more. Choose another model."
UNSENT = "Your edit was not sent: it stands in the box below. The message is as it was."
SAME_AGAIN = "At temperature 0 the answer stays the same. Raise it to get another one."
REMEMBERED = "() => [localStorage.getItem('werkbank.conversation') || '']"
REMEMBER = "(id) => { localStorage.setItem('werkbank.conversation', id); return id; }"
# Kept by assets/chat.js. What somebody typed before the page was ready wins.
DRAFT = """() => [document.querySelector('#chat-box textarea')?.value
    || sessionStorage.getItem('werkbank.draft') || '']"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Parts:
    """The components that handlers fill. `tip`: the last message shown, which the next goes behind;
    `editing`: the message whose new text is in the box; `draft`: what stood there before."""

    current: Any
    tip: Any
    editing: Any
    draft: Any
    conversations: Panel
    log: Any
    status: Any
    note: Any
    cancel: Any
    box: Any
    send: Any
    stop: Any
    meter: Any
    buttons: Any

    def shown(self) -> list[Any]:
        """What depends on which conversation is open."""
        return [
            self.current, self.tip, self.conversations.stamp, self.log, self.status, self.send,
            self.stop, self.meter,
        ]  # fmt: skip

    def editor(self) -> list[Any]:
        return [self.editing, self.draft, self.note, self.cancel, self.box]


def build(bench: Bench) -> None:
    key = new_key()
    with gr.Row(elem_classes="work", elem_id="chat"):
        with gr.Column(scale=1, min_width=180, elem_classes="left"):
            new = gr.Button("New chat", size="sm", elem_id="chat-new")
            conversations = build_conversation_panel(bench)
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            log = build_log()
            compare = build_compare(bench)
            status = gr.HTML(elem_id="chat-status")
            with gr.Row(elem_classes="editing"):
                note = gr.HTML(elem_id="chat-edit-note")
                cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="chat-edit-cancel")
            attach = build_attach(bench, key)
            with gr.Row(elem_classes="composer"):
                attach.button.render()
                box = gr.Textbox(
                    show_label=False, label="Message", placeholder="Message", lines=1, max_lines=12,
                    container=False, scale=8, elem_id="chat-box", autofocus=True,
                )  # fmt: skip
                send = gr.Button("Send", variant="primary", min_width=70, elem_id="chat-send")
                stop = gr.Button(
                    "Stop", variant="stop", min_width=70, visible=False, elem_id="chat-stop"
                )
            fullness = gr.HTML(elem_id="chat-meter")
        with gr.Column(scale=2, min_width=260, elem_classes="right"):
            picker = build_model_picker(bench, "chat")
            with gr.Group(elem_classes="panel"):
                presets = build_preset_picker(bench, "chat", ChatParams)
                first = picker.first
                form = build_form(
                    ChatParams, prefix="chat", values=first.settings if first else None
                )
                presets.wire(form)
                form = with_adapters(
                    form, prefix="chat", folder=bench.home / "models",
                    models=lambda: bench.models("chat"),
                )  # fmt: skip
            compare.build_settings(picker.first)
            build_share(bench, picker, form)
    current, tip, editing, draft = (
        gr.Textbox(visible=False, elem_id=f"chat-{name}")
        for name in ("current", "tip", "editing", "draft")
    )
    parts = Parts(
        current, tip, editing, draft, conversations, log, status, note, cancel, box, send, stop,
        fullness, build_buttons(key),
    )  # fmt: skip
    Chat(bench, parts, picker, form, attach, compare, key).wire(new)


def build_log() -> gr.Chatbot:
    return gr.Chatbot(
        elem_id="chat-log", show_label=False, height="calc(100vh - 250px)",
        min_height=240, placeholder=PLACEHOLDER, buttons=["copy", "copy_all"],
        latex_delimiters=LATEX, reasoning_tags=[("<think>", "</think>")],
        allow_tags=False, layout="bubble", feedback_options=None,
    )  # fmt: skip


class Chat:
    """The handlers. Beginning an answer is short, so that Send works again at once, also in another
    conversation; following it is long and fills the log alone; settling shows how it ended."""

    def __init__(
        self, bench: Bench, parts: Parts, picker: Picker, form: FormWithAdapters, attach: Attach,
        compare: Compare, key: str,
    ) -> None:  # fmt: skip
        self.bench, self.parts, self.picker, self.form = bench, parts, picker, form
        self.attach, self.compare, self.key = attach, compare, key
        self.views = Views()

    def wire(self, new: Any) -> None:
        parts, compare = self.parts, self.compare
        settings = [*self.picker.inputs, *self.form.components, *compare.inputs]
        edit = [parts.editing, parts.draft]
        typed = [*edit, parts.box]
        everything = [*parts.shown(), *parts.editor(), *compare.shown(), *self.attach.shown()]
        sent = gr.on(
            [parts.send.click, parts.box.submit], self.send,
            [parts.box, parts.current, parts.tip, *edit, self.attach.files, *settings],
            everything, **QUIET,
        )  # fmt: skip
        clicked = parts.buttons.select(
            self.press,
            [parts.box, parts.current, *edit, self.attach.files, *settings],
            everything,
            **QUIET,
        )
        opened = parts.conversations.list.select(self.choose, typed, everything, **QUIET)
        root = gr.context.Context.root_block
        # Not through the queue: after a reload the text so far is back a moment earlier.
        first = root.load(
            self.open_first, parts.current, everything, js=REMEMBERED, queue=False, **QUIET
        )
        first_of_all(first)
        root.load(None, None, parts.box, js=DRAFT, **QUIET)
        compare.voted(self.vote, parts.current, everything, **QUIET)
        for event in (sent, clicked, opened, first):
            follow: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
            one = event.then(self.follow, None, [parts.log, parts.status], **follow)
            two = event.then(self.follow_pair, None, compare.growing(parts.status), **follow)
            for ended in (one, two):
                ended.then(self.settle, None, everything, queue=False, **QUIET).then(
                    self.state_of_model,
                    self.picker.inputs,
                    self.picker.status,
                    queue=False,
                    **QUIET,
                )
        opened.then(
            self.settings_of_conversation, None, [*self.picker.shown(), *self.form.components],
            queue=False, **QUIET,
        )  # fmt: skip
        self.picker.model.input(
            self.settings_of_model, self.picker.model, list(self.form.components), queue=False,
            **QUIET,
        )  # fmt: skip
        self.picker.handed.change(
            self.take_over, [self.picker.handed, *typed],
            [*self.form.components, self.form.fold, *compare.handed(), *everything],
            queue=False, **QUIET,
        ).then(None, None, None, js=TURN, queue=False, **QUIET)  # fmt: skip
        parts.stop.click(self.stop, parts.current, None, queue=False, **QUIET)
        parts.cancel.click(self.leave_edit, parts.draft, parts.editor(), queue=False, **QUIET)
        new.click(self.start_new, typed, everything, queue=False, **QUIET)
        parts.conversations.wire(
            parts.current,
            stop=self.stop,
            leave=self.start_new,
            editing=typed,
            outputs=everything,
        )
        parts.current.change(None, parts.current, parts.current, js=REMEMBER)
        self.attach.wire(self.picker, self.form, parts.status)

    # What begins

    async def send(
        self, request: gr.Request, text: str, current: str, tip: str, editing: str,
        draft: str, files: list[Any], *values: Any,
    ) -> dict[Any, Any]:  # fmt: skip
        page = page_of(request)
        if editing:
            wish = Wish("edit", current, editing, text, (), page)
        else:
            wish = Wish("send", current, tip, text, self.attach.read(files), page)
        return self._begin(wish, values, draft)

    async def press(
        self, request: gr.Request, event: gr.EventData, text: str, current: str, editing: str,
        draft: str, files: list[Any], *values: Any,
    ) -> dict[Any, Any]:  # fmt: skip
        """One of the buttons under a message, or beside a file that is to be sent."""
        act, page = pressed(event), page_of(request)
        try:
            if act.act in ("retry", "continue"):
                return self._begin(Wish(act.act, current, act.message, visitor=page), values)  # type: ignore[arg-type]
            if act.act == "edit":
                return self._edit(act, self._unsent(editing, draft, text))
            if act.act == "unattach":
                return self.attach.without(files, act.message)
            return self._change(page, current, act)
        except (Refused, ValueError) as error:
            return {self.parts.status: problem(str(error))}

    def _begin(self, wish: Wish, values: tuple[Any, ...], draft: str = "") -> dict[Any, Any]:
        """Write the question into the store and start the answer, or say why not."""
        parts, bench = self.parts, self.bench
        answers: list[Answer] = []
        try:
            left, right = self._asked(values)
            if right and wish.act != "continue":
                answers = begin_pair(bench, wish, left, right)
            elif answer := begin(bench, wish, left):
                answers = [answer]
            conversation = answers[0].conversation if answers else wish.conversation
            bench.store.set_settings(conversation, left.listed.id, left.settings)
        except (Refused, ValueError) as error:
            # Begun in another browser tab, perhaps: show it, with its Stop.
            self._look(wish.visitor, wish.conversation)
            return {parts.status: problem(str(error))}
        self._look(wish.visitor, conversation)
        same = wish.act == "retry" and not right and not left.settings.get("temperature")
        update = self.shown(conversation)
        if wish.act == "send":
            update |= {**self.leave_edit(), **self.attach.emptied()}
        elif wish.act == "edit":
            update |= self.leave_edit(draft)
        update[parts.status] = line(SAME_AGAIN, "note") if same else ""
        return update

    def _asked(self, values: tuple[Any, ...]) -> tuple[Asked, Asked | None]:
        """The model and settings as shown, and those of the other side where there is one."""
        count = len(self.picker.inputs)
        listed, options = self.picker.chosen(values[:count])
        rest = values[count:]
        settings = self.form.read(rest[: len(self.form.names)])
        asked = Asked(listed, options, settings)
        return asked, self.compare.asked(asked, rest[len(self.form.names) :])

    # What changes a conversation without a model

    def _edit(self, act: Pressed, draft: str) -> dict[Any, Any]:
        message = self.bench.store.message(act.message)
        if message is None:
            raise Refused("This message does not exist any more.", "Reload the page.")
        mine = message.role == "user"
        what = "Send asks it anew" if mine else "Send saves your version"
        note = f"Editing {'your message' if mine else 'an answer'}. {what}; the old one is kept."
        return {
            self.parts.editing: message.id,
            self.parts.draft: draft,
            self.parts.note: line(note, "note"),
            self.parts.cancel: gr.Button(visible=True),
            self.parts.box: gr.Textbox(value=message.text, autofocus=True),
        }

    def leave_edit(self, draft: str = "") -> dict[Any, Any]:
        """The box holds again what was typed before the edit."""
        return {
            self.parts.editing: "",
            self.parts.draft: "",
            self.parts.note: "",
            self.parts.cancel: gr.Button(visible=False),
            self.parts.box: draft,
        }

    def _change(self, page: str, current: str, act: Pressed) -> dict[Any, Any]:
        store, status = self.bench.store, ""
        if act.act == "show":
            store.show_branch(act.message)
        elif act.act in ("up", "down"):
            message, vote = store.message(act.message), 1 if act.act == "up" else -1
            store.vote(act.message, 0 if message and message.vote == vote else vote)
        elif act.act == "delete":
            running = self.bench.answers.all_of(current)
            if running:
                raise Refused("The last answer is still being written.", "Stop it, then delete.")
            store.delete_message(act.message)
            status = deleted_line(act.message, self.key)
        elif act.act == "undo":
            store.restore_message(act.message)
        self._look(page, current)
        return {**self.shown(current), self.parts.status: status}

    async def vote(self, request: gr.Request, current: str, vote: str) -> dict[Any, Any]:
        decided = self.compare.decide(shown_of(self.bench, current, self.key), vote)
        told = "" if decided else line(DECIDED, "note")
        return {**self._open(page_of(request), current), self.parts.status: told}

    async def stop(self, current: str) -> None:  # async: a plain function would run in a thread
        for answer in self.bench.answers.all_of(current):
            self.bench.answers.stop(answer)

    # What is looked at

    async def open_first(self, request: gr.Request, current: str) -> dict[Any, Any]:
        page = page_of(request)
        if self.views.knows(page):  # somebody was quicker than the page's own start
            return {self.parts.log: gr.skip()}
        notice = self.bench.store.notice
        told = {self.parts.status: line(notice, "note")} if notice else {}
        return {**self._open(page, current), **told}

    async def choose(
        self, request: gr.Request, event: gr.EventData, editing: str, draft: str, text: str
    ) -> dict[Any, Any]:
        left = self._left(editing, draft, text)
        return {**self._open(page_of(request), selected(event)), self.parts.status: "", **left}

    def _open(self, page: str, conversation: str) -> dict[Any, Any]:
        self._look(page, conversation)
        return self.shown(conversation)

    def _look(self, page: str, conversation: str) -> None:
        """What the page shows from now on, and what it follows as soon as this handler ends."""
        running = self.bench.answers.all_of(conversation)
        pair = running and open_pair(self.bench, shown_of(self.bench, conversation, self.key))
        self.views.look(page, conversation, running, pair=bool(pair))

    def start_new(self, request: gr.Request, editing: str, draft: str, text: str) -> dict[Any, Any]:
        left = self._left(editing, draft, text)
        return {**self._open(page_of(request), ""), self.parts.status: "", **left}

    def _left(self, editing: str, draft: str, text: str) -> dict[Any, Any]:
        """An edit that is left for another conversation. Nothing that was typed is lost."""
        if not editing:
            return {}
        kept = self._unsent(editing, draft, text)
        told = {} if kept == draft else {self.parts.status: line(UNSENT, "note")}
        return self.leave_edit(kept) | told

    def _unsent(self, editing: str, draft: str, text: str) -> str:
        """What was typed before an edit, and the edit itself where it changed something."""
        if not editing:
            return text
        message = self.bench.store.message(editing)
        same = not text.strip() or bool(message and text.strip() == message.text.strip())
        return draft if same else f"{draft}\n\n{text}" if draft.strip() else text

    async def follow(self, request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """The answer that the page has just begun, or found, until it ends.

        When the page turns to another conversation this goes on silently: it is still watched.
        """
        parts, begun = self.parts, self.views.begun(page_of(request), pair=False)
        yield {parts.log: gr.skip()}
        if begun is None:
            return
        answer, told, drawn = begun.answers[0], "", None
        shown = shown_of(self.bench, begun.conversation, self.key)
        async for _ in answer.watch():
            now: dict[Any, Any] = {parts.log: gr.skip()}
            if (answer.text, answer.over) != drawn:  # a long log takes a browser 0.1 s to draw
                drawn = (answer.text, answer.over)
                now[parts.log] = chatbot_value(shown, answer)
            if status_of(answer) != told:
                told = status_of(answer)
                now[parts.status] = told
            yield now if begun.current else {parts.log: gr.skip()}

    async def follow_pair(self, request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        begun = self.views.begun(page_of(request), pair=True)
        yield {self.parts.status: gr.skip()}
        if begun is None:
            return
        pair = open_pair(self.bench, shown_of(self.bench, begun.conversation, self.key))
        async for _ in watch(*begun.answers):
            if pair and begun.current:
                yield self.compare.texts(pair, begun.answers)
            else:
                yield {self.parts.status: gr.skip()}

    def settle(self, request: gr.Request) -> dict[Any, Any]:
        """How things stand in what the page looks at now."""
        return self.shown(self.views.at(page_of(request)))

    def shown(self, conversation: str) -> dict[Any, Any]:
        """Everything that depends on which conversation is open."""
        parts, running = self.parts, self.bench.answers.all_of(conversation)
        shown = shown_of(self.bench, conversation, self.key)
        pair = open_pair(self.bench, shown)
        log = chatbot_value(pair.shown if pair else shown, running[0] if running else None)
        return {
            parts.current: conversation,
            parts.tip: shown.tip,
            parts.conversations.stamp: parts.conversations.touch(),
            parts.log: log,
            parts.meter: meter(shown),
            parts.send: gr.Button(visible=not running),
            parts.stop: gr.Button(visible=bool(running)),
            **self.compare.show(pair, running),
        }

    # The column of settings

    def _listed(self, name: str) -> Listed | None:
        return next((m for m in self.bench.models("chat") if m.id == name), None)

    def state_of_model(self, *values: Any) -> str:
        return str(self.picker.show(*values)[0])

    def settings_of_model(self, name: str) -> list[Any]:
        listed = self._listed(name)
        return self.form.fill(listed.settings if listed else {}, name)

    def take_over(
        self, request: gr.Request, text: str, editing: str, draft: str, typed: str
    ) -> dict[Any, Any]:
        """What another tab has handed over: the model is chosen already."""
        try:
            handed = handed_of(text)
        except (Refused, ValueError) as error:
            return {self.parts.status: problem(str(error))}
        if not handed.id:
            return {self.parts.log: gr.skip()}
        listed = self._listed(handed.id)
        if listed is None:
            return {self.parts.status: problem(GONE.format(handed.id))}
        settings = listed.settings
        filled = self.form.fill({**settings, "adapters": list(handed.adapters)}, handed.id)
        update = dict(zip(self.form.components, filled, strict=True))
        update[self.form.fold] = gr.Accordion(open=True) if handed.adapters else gr.skip()
        if handed.fresh:
            update |= self.compare.opened(handed, settings)
            update |= self.start_new(request, editing, draft, typed)
        return update

    def settings_of_conversation(self, request: gr.Request) -> list[Any]:
        """What a conversation that is opened was last answered with."""
        known = self.bench.store.conversation(self.views.at(page_of(request)))
        listed = self._listed(known.model) if known else None
        if known is None or listed is None:
            return [gr.skip()] * (len(self.picker.shown()) + len(self.form.components))
        return [listed.id, *self.picker.show(listed.id), *self.form.fill(known.settings, listed.id)]


def page_of(request: gr.Request) -> str:
    """One open browser page; at the gate, one visitor."""
    return f"page:{request.session_hash}"
