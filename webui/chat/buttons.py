"""The buttons under a message. They are part of its text for Gradio's Chatbot, which cleans HTML:
of their attributes only `class` and `title` survive, so class names carry what a click means.

A model could write such a button into its answer. Ours stand in an element whose class is a key
drawn when the page's server starts, which no model has seen.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from webui.chat.view import Shown
    from webui.store import Message

GO_ON = ("stopped", "failed")
SCRIPT = Path(__file__).resolve().parents[2] / "assets" / "chat.js"


@dataclass(frozen=True)
class Pressed:
    """A button and the id of its message."""

    act: str
    message: str


def new_key() -> str:
    return f"k{secrets.token_hex(8)}"


def build_buttons(key: str) -> gr.HTML:
    """The listener. Its select event carries a `Pressed`, see `pressed`."""
    return gr.HTML(
        f'<i data-key="{key}" hidden></i>', js_on_load=SCRIPT.read_text("utf-8"),
        elem_id="chat-buttons",
        apply_default_css=False,
    )  # fmt: skip


def pressed(event: gr.EventData) -> Pressed:
    data: dict[str, Any] = event._data or {}
    return Pressed(str(data.get("act", ""))[:20], str(data.get("id", ""))[:20])


def buttons(shown: Shown, message: Message, last: bool) -> str:
    """As HTML: other versions, and what can be done with this one."""
    made = versions(shown, message)
    id = message.id
    if message.role == "assistant":
        made.append(
            control("retry", id, "Retry", "Write another answer with the settings as shown")
        )
        if last and message.text and can_go_on(message):
            made.append(control("continue", id, "Continue", "Go on where it ends"))
    made.append(control("edit", id, "Edit", "Change it; the old version is kept"))
    if message.role == "assistant":
        for act, vote, word, title in (
            ("up", 1, "Good", "A good answer: kept for training"),
            ("down", -1, "Bad", "A bad answer: kept for training"),
        ):
            made.append(control(act, id, word, title, on=message.vote == vote))
    made.append(control("delete", id, "Delete", "Delete it and what follows; it can be undone"))
    return f'<span class="acts {shown.key}{" last" if last else ""}">{" ".join(made)}</span>'


def versions(shown: Shown, message: Message) -> list[str]:
    """ "‹ 2/3 ›", where there is more than one version."""
    ids = list(shown.versions(message))
    if len(ids) < 2 or message.id not in ids:
        return []
    at = ids.index(message.id)
    before = control("show", ids[at - 1], "‹", "Earlier version") if at else ""
    after = control("show", ids[at + 1], "›", "Later version") if at + 1 < len(ids) else ""
    return [f'<span class="versions">{before} {at + 1}/{len(ids)} {after}</span>']


def can_go_on(message: Message) -> bool:
    return message.state in GO_ON or message.usage.get("finish_reason") == "length"


def control(act: str, message: str, word: str, title: str, on: bool = False) -> str:
    """One button; `on`: it is in force, such as a vote."""
    return (
        f'<button class="act act-{act} m-{escape(message)}{" on" if on else ""}" '
        f'title="{escape(title)}">{escape(word)}</button>'
    )
