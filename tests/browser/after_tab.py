"""Werkbank with one more tab, whose buttons hand a training's result to Chat.

python -m tests.browser.after_tab serve …
"""

from __future__ import annotations

import sys

import gradio as gr

import tabs
from webui import cli
from webui.bench import Bench
from webui.finetune import after
from webui.hand_over import build_go

TITLE = "After"


def build(bench: Bench) -> None:
    id = gr.Textbox(label="Job", elem_id="after-job")
    go = build_go("after-go")

    def open_in_chat(job: str) -> str:
        return after.open_in_chat(bench, job).as_text()

    def compare(job: str) -> str:
        return after.compare_in_chat(bench, job, 10).as_text()

    for name, handler in (("open", open_in_chat), ("compare", compare)):
        button = gr.Button(name, elem_id=f"after-{name}")
        button.click(handler, id, go, queue=False, api_visibility="private")


if __name__ == "__main__":
    tabs.TABS = (*tabs.TABS, sys.modules[__name__])
    sys.exit(cli.main(sys.argv[1:]))
