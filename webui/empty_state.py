"""What a tab shows before its task exists: what it will do, and nothing that pretends."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr


def build_empty_state(title: str, sentence: str, points: Sequence[str]) -> None:
    listed = "".join(f"<li>{escape(p)}</li>" for p in points)
    gr.HTML(
        f'<section class="coming"><h2>{escape(title)}</h2><p>{escape(sentence)}</p>'
        f"<ul>{listed}</ul><p><em>Not part of this version yet. Chat is ready to use.</em></p>"
        "</section>"
    )
