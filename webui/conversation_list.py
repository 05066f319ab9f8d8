"""The list of conversations as HTML: groups by age, hits of a search, what was deleted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from html import escape

from webui.store import Conversation, Found

EMPTY = '<p class="empty">Your conversations appear here. They are saved while they stream.</p>'
UNTITLED = "New chat"
MORE = '<button class="further" data-act="further">Show more</button>'
DAY = 86400


def conversation_list(
    conversations: Sequence[Conversation],
    current: str,
    deleted: Sequence[Conversation] = (),
    *,
    further: bool = False,
    now: float | None = None,
) -> str:
    """`further` puts "Show more" below. `conversations` come pinned first, then newest first."""
    parts, group = [], ""
    for conversation in conversations:
        if (its := group_of(conversation, now)) != group:
            group = its
            parts.append(f"<h4>{group}</h4>")
        parts.append(row(conversation, current))
    shown = f'<nav aria-label="Conversations">{"".join(parts)}{MORE if further else ""}</nav>'
    return (shown if parts else EMPTY) + fold(deleted)


def found_list(found: Sequence[Found], current: str, words: str, *, further: bool = False) -> str:
    """What a search came to."""
    if not found:
        return f'<p class="empty">Nothing has “{escape(words.strip())}” in it.</p>'
    rows = [row(f.conversation, current, snippet(f.snippet)) for f in found]
    return f'<nav aria-label="Found">{"".join(rows)}{MORE if further else ""}</nav>'


def row(conversation: Conversation, current: str, below: str = "") -> str:
    """Buttons, so that the keyboard reaches them. The menu is made by the page's script."""
    id, title = escape(conversation.id), escape(conversation.title) or UNTITLED
    here = conversation.id == current
    return (
        f'<div class="row{" current" if here else ""}" data-row="{id}"'
        f' data-title="{escape(conversation.title)}" data-pinned="{int(conversation.pinned)}">'
        f'<button class="open" data-id="{id}" title="{title}"'
        f"{' aria-current=true' if here else ''}><span>{title}</span>"
        f"<time>{escape(ago(conversation.updated))}</time>{below}</button>"
        f'<button class="menu" data-menu="{id}" aria-haspopup="true"'
        f' aria-label="More about {title}">⋯</button></div>'
    )


def snippet(pieces: Iterable[tuple[str, bool]]) -> str:
    marked = "".join(f"<mark>{escape(t)}</mark>" if hit else escape(t) for t, hit in pieces)
    return f"<small>{marked}</small>" if marked else ""


def fold(deleted: Sequence[Conversation]) -> str:
    """Closed at first; nothing where nothing was deleted."""
    if not deleted:
        return ""
    rows = "".join(
        f'<div class="row"><span title="{escape(c.title)}">{escape(c.title) or UNTITLED}</span>'
        f'<button data-act="restore" data-id="{escape(c.id)}"'
        f' aria-label="Restore {escape(c.title)}">Restore</button>'
        f'<button data-act="erase" data-id="{escape(c.id)}" data-title="{escape(c.title)}"'
        f' aria-label="Erase {escape(c.title)} for good">Erase</button></div>'
        for c in deleted
    )
    return (
        f'<details class="deleted"><summary>Deleted ({len(deleted)})</summary>'
        f"<p>Gone for good after 30 days.</p>{rows}</details>"
    )


def group_of(conversation: Conversation, now: float | None = None) -> str:
    """ "Pinned", or how long ago it was changed last, in this computer's days."""
    if conversation.pinned:
        return "Pinned"
    today = date.fromtimestamp(time.time() if now is None else now)
    then = date.fromtimestamp(conversation.updated)
    for days, name in ((0, "Today"), (1, "Yesterday"), (7, "Last 7 days"), (30, "Last 30 days")):
        if then >= today - timedelta(days=days):
            return name
    return "Older"


def ago(then: float, now: float | None = None) -> str:
    """How long ago, short: "now", "5 min", "3 h", "2 d", then the date."""
    seconds = (time.time() if now is None else now) - then
    for limit, size, unit in ((60, 1, ""), (3600, 60, " min"), (DAY, 3600, " h")):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}" if unit else "now"
    if seconds < 7 * DAY:
        return f"{int(seconds // DAY)} d"
    return time.strftime("%d %b", time.localtime(then))
