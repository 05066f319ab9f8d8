"""Fine-tune: drop a dataset, train on it, and talk to what learned it."""

from __future__ import annotations

import gradio as gr

from webui.bench import Bench
from webui.finetune.dataset_panel import DatasetPanel

TITLE = "Fine-tune"


def build(bench: Bench) -> None:
    dataset = DatasetPanel(bench)
    with gr.Row(elem_classes="work", elem_id="finetune"):
        with gr.Column(scale=2, min_width=280, elem_classes="left"):
            dataset.place()
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            dataset.place_view()
    dataset.wire()
