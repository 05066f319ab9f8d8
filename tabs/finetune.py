"""Fine-tune: drop a dataset, train on it, and talk to what learned it."""

from __future__ import annotations

import gradio as gr

from webui.bench import Bench
from webui.finetune.dataset_panel import DatasetPanel
from webui.finetune.job_panel import JobPanel
from webui.finetune.training_panel import TrainingPanel

TITLE = "Fine-tune"


def build(bench: Bench) -> None:
    dataset, jobs = DatasetPanel(bench), JobPanel(bench)
    training = TrainingPanel(bench, dataset)
    with gr.Row(elem_classes="work", elem_id="finetune"):
        with gr.Column(scale=2, min_width=280, elem_classes="left"):
            dataset.place()
            training.place()
            dataset.tokens.base = training.base
            dataset.tokens.length = training.component("max_length")
            dataset.tokens.answers_only = training.component("answers_only")
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            jobs.place()
            dataset.place_view()
    dataset.wire()
    training.wire()
    jobs.wire()
