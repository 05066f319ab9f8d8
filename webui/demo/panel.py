"""The owner's side: the button with its dialog on Chat, and the banner over every tab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.events import Progress
from webui.bench import Bench
from webui.demo.offer import SPANS, WATCH, make_offer
from webui.demo.passphrase import make_passphrase
from webui.demo.quota import Terms
from webui.demo.share import Sharing
from webui.form import Form
from webui.model_picker import Picker, details, line, model_status, problem, progress_bar

ASSETS = Path(__file__).resolve().parents[2] / "assets"
WAYS = [("Anybody who has the link", "tunnel"), ("Only this network", "lan")]
WHAT = (
    "<h3>Share this chat</h3><p>Guests get a page of their own with a chat, and nothing else of "
    "yours: no files, no conversations, no settings. They talk to the chosen model with your "
    "system prompt and settings <b>as they are now</b>, {messages} messages each, and wait while "
    "you use it yourself.</p>"
)
HOW = {
    "tunnel": "The address is made by Gradio's share service: what is said there passes through "
    "its servers. At first use it fetches a small program (frpc) from there.",
    "lan": "The address works in your local network alone. It is not encrypted: others in this "
    "network could read along.",
}
TEMPLATE = '<div class="share" role="region" aria-label="Shared demo" hidden></div>'


def build_banner() -> gr.HTML:
    """Stands over all tabs, empty while nothing is shared. Hears of a demo in the strip's poll."""
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "share_banner.css").read_text("utf-8"),
        js_on_load=(ASSETS / "share_banner.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id="share-banner",
    )


def build_share(
    bench: Bench,
    picker: Picker,
    form: Form,
    inputs: Sequence[Any] = (),
    read: Callable[..., dict[str, Any]] = lambda *values: {},
) -> None:
    """The button "Share…", where the settings end. What is shared is what they show at the start.

    inputs, read: further components and how their values become settings of an answer, such as
        the attached adapters; read may raise Refused or ValueError
    """
    button = gr.Button("Share…", size="sm", elem_id="share-open")
    with gr.Group(visible=False, elem_id="share-dialog", elem_classes="panel") as dialog:
        gr.HTML(WHAT.format(messages=Terms().messages), elem_id="share-what")
        passphrase = gr.Textbox(
            label="Passphrase", info="Guests are asked for it. Empty: one is made.",
            max_lines=1, buttons=["copy"], elem_id="share-passphrase",
        )  # fmt: skip
        seconds = gr.Dropdown(
            [(text, seconds) for seconds, text in SPANS.items()], value=2 * 3600,
            label="Ends after", filterable=False, elem_id="share-seconds",
        )  # fmt: skip
        where = gr.Radio(WAYS, value="tunnel", label="For whom", elem_id="share-where")
        how = gr.HTML(line(HOW["tunnel"], "note"), elem_id="share-how")
        status = gr.HTML(elem_id="share-status")
        with gr.Row(elem_classes="buttons"):
            start = gr.Button("Share", variant="primary", size="sm", elem_id="share-start")
            close = gr.Button("Close", size="sm", elem_id="share-close")

    async def open_dialog() -> list[Any]:
        return [gr.Group(visible=True), make_passphrase(), ""]

    async def begin(
        phrase: str, span: float, way: str, *values: Any
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        count = len(picker.inputs)
        try:
            listed, options = picker.chosen(values[:count])
            own, more = values[count : count + len(form.names)], values[count + len(form.names) :]
            settings = {**form.read(own), **read(*more)}
            offer = make_offer(
                listed, options, settings, phrase=phrase, seconds=int(span), where=way
            )
            bench.sharing.begin(offer)
        except (Refused, ValueError) as error:
            yield problem(str(error)), gr.skip(), gr.skip()
            return
        async for told in watch(bench.sharing):
            yield told, gr.skip(), gr.skip()
        on = bench.sharing.state == "on"
        yield told_of(bench.sharing), gr.Group(visible=not on), model_status(bench, listed)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    button.click(open_dialog, None, [dialog, passphrase, status], queue=False, **quiet)
    close.click(lambda: gr.Group(visible=False), None, dialog, queue=False, **quiet)
    where.change(lambda way: line(HOW[way], "note"), where, how, queue=False, **quiet)
    start.click(
        begin, [passphrase, seconds, where, *picker.inputs, *form.components, *inputs],
        [status, dialog, picker.status], **quiet,
    )  # fmt: skip


async def watch(sharing: Sharing) -> AsyncIterator[str]:
    """The state of a start as HTML, until it has come to an end. It goes on unwatched."""
    while sharing.state == "starting":
        step = sharing.progress or Progress(0, 0, "")
        yield progress_bar(step, sharing.note)
        await asyncio.sleep(WATCH)


def told_of(sharing: Sharing) -> str:
    if sharing.problem:
        return problem(sharing.problem) + details("Details", sharing.detail)
    return ""
