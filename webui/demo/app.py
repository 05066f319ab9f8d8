"""What a visitor sees: one chat. The second Gradio app; it shares nothing with the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi import FastAPI

from backends.base import Refused
from webui.app import build_nudge, mount, tune
from webui.chat.markdown import drawable
from webui.demo.door import VISITOR, DemoDoor
from webui.demo.quota import Visitor
from webui.demo.state import Demo
from webui.demo.talk import answered, ask, remembered, stop
from webui.model_picker import line

if TYPE_CHECKING:
    from webui.answers import Answer
    from webui.bench import Bench

HEAD = '<meta name="robots" content="noindex">'
PLACEHOLDER = (
    "### Ask something\nThe answers come from a model on somebody's own computer. They may be "
    "wrong. Your chat is kept only while this demo runs."
)
FORGOTTEN = "The chat has grown long: the model no longer sees its first {} messages."
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def build_server(bench: Bench, demo: Demo) -> tuple[FastAPI, gr.Blocks]:
    """The demo's own app, door included, and its page."""
    page = build_page(bench, demo)
    demo.calls.inputs = {number: len(call.inputs) for number, call in page.fns.items()}
    server = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    server.add_middleware(DemoDoor, demo=demo)
    mount(server, page, "demo.js", "demo.css", max_file_size="1kb", head=HEAD)
    return server, page


def build_page(bench: Bench, demo: Demo) -> gr.Blocks:
    model = escape(demo.offer.listed.title)
    with gr.Blocks(
        title=f"{demo.offer.listed.title}: a demo", fill_width=True, analytics_enabled=False
    ) as page:
        gr.HTML(
            f'<header><b>{model}</b><span id="demo-left" role="status"></span></header>',
            elem_id="demo-top",
        )
        log = gr.Chatbot(
            elem_id="demo-log", show_label=False, placeholder=PLACEHOLDER, buttons=["copy"],
            latex_delimiters=LATEX, reasoning_tags=[("<think>", "</think>")], allow_tags=False,
            layout="bubble", feedback_options=None, height="100%",
        )  # fmt: skip
        status = gr.HTML(elem_id="demo-status")
        with gr.Row(elem_id="demo-composer"):
            box = gr.Textbox(
                show_label=False, label="Message", placeholder="Message", lines=1, max_lines=8,
                max_length=demo.offer.terms.characters, container=False, scale=8,
                elem_id="demo-box", autofocus=True,
            )  # fmt: skip
            send = gr.Button("Send", variant="primary", min_width=70, elem_id="demo-send")
            halt = gr.Button(
                "Stop", variant="stop", min_width=70, visible=False, elem_id="demo-stop"
            )
            new = gr.Button("New chat", min_width=70, elem_id="demo-new")
        _wire(bench, demo, page, [log, status, send, halt], box, new)
        build_nudge()
    tune(page)
    return page


def _wire(
    bench: Bench, demo: Demo, page: gr.Blocks, outputs: list[Any], box: Any, new: Any
) -> None:
    log, status, send, halt = outputs

    async def say(request: gr.Request, text: str) -> AsyncIterator[list[Any]]:
        visitor = who(demo, request)
        try:
            answer = ask(bench, demo, visitor, str(text or ""))
        except Refused as refused:
            problem = line(str(refused), "bad")
            yield [gr.skip(), problem, gr.skip(), gr.skip(), gr.skip()]
            return
        empty: Any = ""  # once: the next message may be under way in the box
        async for update in follow(demo, visitor, answer):
            yield [*update, empty]
            empty = gr.skip()

    async def look(request: gr.Request) -> AsyncIterator[list[Any]]:
        visitor = who(demo, request)
        yield shown(demo, visitor, visitor.answer)
        if visitor.answer:
            async for update in follow(demo, visitor, visitor.answer):
                yield update

    async def cancel(request: gr.Request) -> None:
        if answer := who(demo, request).answer:
            stop(answer)

    async def forget(request: gr.Request) -> list[Any]:
        visitor = who(demo, request)
        if visitor.answer:
            stop(visitor.answer)
            return [gr.skip()] * 4
        visitor.turns.clear()
        return shown(demo, visitor, None)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([send.click, box.submit], say, box, [*outputs, box], trigger_mode="multiple", **quiet)
    halt.click(cancel, None, None, **quiet)
    new.click(forget, None, outputs, **quiet)
    page.load(look, None, outputs, **quiet)


async def follow(demo: Demo, visitor: Visitor, answer: Answer) -> AsyncIterator[list[Any]]:
    """Log, status, Send, Stop, at each change of an answer until its end."""
    question = visitor.question
    async for live in answer.watch():
        over = live.over
        yield shown(demo, visitor, live, question)
        if over:
            return


def shown(
    demo: Demo, visitor: Visitor, answer: Answer | None, question: str | None = None
) -> list[Any]:
    """The visitor's chat, with the answer under way where there is one."""
    turns = visitor.turns
    log: list[dict[str, str]] = []
    for asked, told in turns:
        log.append({"role": "user", "content": drawable(asked)})
        log += [{"role": "assistant", "content": drawable(told, answer=True)}] if told else []
    running = answer is not None and not answer.over
    if answer is not None and running:
        log.append({"role": "user", "content": drawable(question or visitor.question)})
        said = drawable(answer.text, answer=True)
        log.append({"role": "assistant", "content": said or "…"})
    return [log, status_of(demo, visitor, answer), gr.Button(visible=not running),
            gr.Button(visible=running)]  # fmt: skip


def status_of(demo: Demo, visitor: Visitor, answer: Answer | None) -> str:
    """One line over the input, as HTML: a position, what went wrong, what was forgotten."""
    if answer is not None and answer.note:
        return line(answer.note, "bad" if answer.state == "failed" else "note")
    if answer is not None and answer.status and not answer.over:
        return line(answer.status, "note")
    gone = len(answered(visitor)) - len(remembered(demo, visitor))
    return line(FORGOTTEN.format(2 * gone), "note") if gone else ""


def who(demo: Demo, request: gr.Request) -> Visitor:
    """The visitor of a call. The door lets nobody else through."""
    return demo.visitors.known[request.request.scope[VISITOR]]
