"""What a start is measured against: the smallest Gradio app, launched the ordinary way."""

from __future__ import annotations

import sys

import gradio as gr

with gr.Blocks() as page:
    gr.Textbox()

page.launch(server_port=int(sys.argv[1]), quiet=True)
