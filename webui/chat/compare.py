"""The panel for two answers side by side, and the settings of the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from backends.chat.params import ChatParams
from backends.models.library import Listed
from webui.adapter_picker import FormWithAdapters, with_adapters
from webui.answers import Answer
from webui.bench import Bench
from webui.chat.markdown import closed, drawable
from webui.chat.pair import Pair, Vote, decide, open_pair
from webui.chat.turns import Asked
from webui.chat.view import Shown, footer
from webui.form import build_form
from webui.hand_over import Handed
from webui.model_picker import choice_label
from webui.store import Message

SAME = ""  # as the model of the right side: the same one
SIDES = (("left", "Left is better"), ("alike", "Both alike"), ("right", "Right is better"))
OWN = ("system", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Compare:
    """Two logs and three votes in the middle; a model and settings in the column of settings."""

    on: Any
    model: Any
    fold: Any
    form: FormWithAdapters

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        with gr.Column(visible=False, elem_classes="compare", elem_id="chat-compare") as self.row:
            with gr.Row(elem_classes="sides"):
                self.logs = [self._side(side) for side in ("left", "right")]
            with gr.Row(elem_classes="votes"):
                self.votes = [
                    gr.Button(word, size="sm", elem_id=f"chat-vote-{vote}", interactive=False)
                    for vote, word in SIDES
                ]

    def _side(self, side: str) -> gr.Chatbot:
        return gr.Chatbot(
            elem_id=f"chat-{side}", show_label=False, buttons=["copy"], layout="panel",
            allow_tags=False, reasoning_tags=[("<think>", "</think>")], feedback_options=None,
            placeholder=" ", min_height=120,
        )  # fmt: skip

    def build_settings(self, first: Listed | None) -> None:
        """The fold in the column of settings. Call once, where it is to stand."""
        with gr.Accordion("Side by side", open=False, elem_id="chat-side-by-side") as self.fold:
            self.on = gr.Checkbox(
                label="Two answers to each message", elem_id="chat-two",
                info="With one seed. Your vote decides which one goes on, and is kept.",
            )  # fmt: skip
            self.model = gr.Dropdown(
                self._models(), value=SAME,
                label="Model of the right answer", elem_id="chat-right-model", filterable=True,
            )  # fmt: skip
            form = build_form(
                ChatParams, prefix="chat-right", values=first.settings if first else None,
                skip=[f for f in ChatParams.__dataclass_fields__ if f not in OWN],
            )  # fmt: skip
            self.form = with_adapters(
                form, prefix="chat-right", folder=self.bench.home / "models",
                models=lambda: self.bench.models("chat"),
            )  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        return [self.on, self.model, *self.form.components]

    def handed(self) -> list[Any]:
        """What `opened` fills."""
        return [*self.inputs, self.fold, self.form.fold]

    def opened(self, handed: Handed, settings: dict[str, Any]) -> dict[Any, Any]:
        """The fold as another tab wants it: two answers, or one. `settings` are the model's own."""
        two = bool(handed.beside)
        name = handed.beside if two and handed.beside != handed.id else SAME
        filled = self.form.fill({**settings, "adapters": list(handed.right)}, handed.beside)
        return {
            self.on: two,
            self.model: gr.Dropdown(choices=self._models(), value=name),
            self.fold: gr.Accordion(open=two),
            self.form.fold: gr.Accordion(open=bool(handed.right)),
            **dict(zip(self.form.components, filled, strict=True)),
        }

    def _models(self) -> list[tuple[str, str]]:
        listed = self.bench.models("chat")
        return [("The same model", SAME), *((choice_label(m), m.id) for m in listed)]

    def asked(self, left: Asked, values: Sequence[Any]) -> Asked | None:
        """The right side, from the values of `inputs`; None where there is one answer only."""
        on, name, *rest = values
        if not on:
            return None
        settings = {**left.settings, **self.form.read(rest)}
        if not name or name == left.listed.id:
            return replace(left, settings=settings)
        return Asked(self.bench.find(str(name)), {}, settings)

    def voted(
        self, handler: Callable[..., Any], current: Any, outputs: list[Any], **event: Any
    ) -> None:
        """Each button calls `handler(request, current, vote)`."""
        for (vote, _), button in zip(SIDES, self.votes, strict=True):
            button.click(_with(handler, vote), current, outputs, **event)

    def decide(self, shown: Shown, vote: str) -> bool:
        """Keep the vote; False where there is nothing to decide any more."""
        pair = open_pair(self.bench, shown)
        chosen: dict[str, Vote] = {"left": "left", "right": "right", "alike": "alike"}
        if pair is None or vote not in chosen:
            return False
        decide(self.bench, pair, chosen[vote])
        return True

    # What is shown

    def shown(self) -> list[Any]:
        return [self.row, *self.logs, *self.votes]

    def growing(self, status: Any) -> list[Any]:
        return [*self.logs, status]

    def show(self, pair: Pair | None, running: Sequence[Answer]) -> dict[Any, Any]:
        """The two answers that wait for a vote; nothing where none do."""
        if pair is None:
            return {self.row: gr.Column(visible=False)}
        return {
            self.row: gr.Column(visible=True),
            **self.texts(pair, running),
            **{button: gr.Button(interactive=not running) for button in self.votes},
        }

    def texts(self, pair: Pair, running: Sequence[Answer]) -> dict[Any, Any]:
        """The two logs; an answer under way is shown as far as it is."""
        by_message = {a.message: a for a in running}
        return {
            log: self._value(message, by_message.get(message.id))
            for log, message in zip(self.logs, (pair.left, pair.right), strict=True)
        }

    def _value(self, message: Message, live: Answer | None) -> list[dict[str, Any]]:
        title = next((m.title for m in self.bench.models("chat") if m.id == message.model), "")
        name = f'<span class="usage">{escape(title or message.model)}</span>'
        text = drawable(live.text if live else message.text, answer=True)
        if live and not live.over:
            content = text or live.status or "…"
        else:
            foot = f"{name} {footer(message, live)}"
            content = f"{closed(text)}\n\n{foot}"
        return [{"role": "assistant", "content": content}]


def build_compare(bench: Bench) -> Compare:
    return Compare(bench)


def _with(handler: Callable[..., Any], vote: str) -> Callable[..., Any]:
    async def clicked(request: gr.Request, current: str) -> Any:
        return await handler(request, current, vote)

    return clicked
