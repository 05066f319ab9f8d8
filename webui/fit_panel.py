"""Will it fit, before the click: a line, a bar, and buttons for what would help."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.base import Refused
from backends.card.fit import Remedy, gigabytes
from backends.models.library import Listed
from webui.bench import complete
from webui.forecast import Outlook, outlook
from webui.form import Form

if TYPE_CHECKING:
    from webui.bench import Bench

SCRIPT = Path(__file__).parent.parent / "assets" / "fit_buttons.js"
BEST = "More bits lose less: this is the most, with the longest context, that fits."


def fits_html(bench: Bench, listed: Listed, options: dict[str, Any] | None) -> str:
    """What a load would need; "" where that is not known or the options are wrong (None)."""
    if options is None:
        return ""
    try:
        found = outlook(bench, listed, complete(listed.backend, options))
    except Refused:  # an option that Load will name, or free memory that cannot be read
        return ""
    if found is None:
        return ""
    kind = "note" if found.fits else "bad"
    ways = [_button(way, options, way.text) for way in found.ways]
    if found.best:
        ways.append(_button(found.best, options, f"Best that fits: {found.best.text}", BEST))
    buttons = f'<div class="ways">{"".join(ways)}</div>' if ways else ""
    return f'<div class="line {kind}">{escape(found.text)}</div>{_bar(found)}{buttons}'


def _bar(found: Outlook) -> str:
    share = min(1.0, found.need_bytes / max(1, found.had_bytes))
    label = f"{gigabytes(found.need_bytes)} of {gigabytes(found.had_bytes)} that can be had"
    return (
        f'<div class="bar fit{"" if found.fits else " over"}" role="img" aria-label="{label}" '
        f'title="{label}"><i style="width:{100 * share:.0f}%"></i></div>'
    )


def _button(way: Remedy, options: dict[str, Any], text: str, title: str = "") -> str:
    change = {k: v for k, v in way.options.items() if options.get(k) != v}
    return (
        f'<button class="fit-set" data-set="{escape(json.dumps(change))}" '
        f'title="{escape(title or "Set it so")}">{escape(text)}</button>'
    )


def build_fit_buttons(task: str) -> gr.HTML:
    """Hears of the buttons in this model status; its `select` brings {"set": JSON}."""
    return gr.HTML(
        html_template=f'<span data-of="{task}-model-status"></span>',
        js_on_load=SCRIPT.read_text("utf-8"),
        elem_classes="silent",
        apply_default_css=False,
    )


def chosen_change(event: gr.EventData, form: Form, now: dict[str, Any]) -> list[Any]:
    """The form's values with the change of the button that was pressed. What the browser sends is
    looked through: only settings of this form count, and the form checks them as ever."""
    data: dict[str, Any] = event._data or {}
    try:
        change = json.loads(str(data.get("set", ""))[:2000])
    except ValueError:
        change = None
    if not isinstance(change, dict):
        return [gr.skip()] * len(form.names)
    return form.fill({**now, **{k: v for k, v in change.items() if k in form.names}})
