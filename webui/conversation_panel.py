"""The list of conversations beside a chat: newest first, click to open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from webui.store import Conversation

EMPTY = '<p class="empty">Your conversations appear here. They are saved while they stream.</p>'
# Buttons, so that the keyboard reaches them; one listener for all, since the list is redrawn.
JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-id]');
  if (button) trigger('select', { id: button.dataset.id });
});
"""


def build_conversation_list() -> gr.HTML:
    """`value` is HTML from `conversation_list`; its select event carries `{"id": …}`."""
    return gr.HTML(EMPTY, js_on_load=JS, elem_id="conversations", apply_default_css=False)


def conversation_list(conversations: Sequence[Conversation], current: str) -> str:
    rows = [
        f'<button data-id="{escape(c.id)}" class="{"current" if c.id == current else ""}" '
        f'title="{escape(c.title)}"><span>{escape(c.title) or "New chat"}</span>'
        f"<time>{escape(ago(c.updated))}</time></button>"
        for c in conversations
    ]
    return f'<nav aria-label="Conversations">{"".join(rows)}</nav>' if rows else EMPTY


def ago(then: float, now: float | None = None) -> str:
    """How long ago, short: "now", "5 min", "3 h", "2 d", then the date."""
    seconds = (time.time() if now is None else now) - then
    for limit, size, unit in ((60, 1, ""), (3600, 60, " min"), (86400, 3600, " h")):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}" if unit else "now"
    if seconds < 7 * 86400:
        return f"{int(seconds // 86400)} d"
    return time.strftime("%d %b", time.localtime(then))


def selected(event: gr.EventData) -> str:
    """The id in a select event of the list."""
    data: dict[str, Any] = event._data or {}
    return str(data.get("id", ""))
