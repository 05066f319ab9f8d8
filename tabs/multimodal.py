"""Multimodal: ask about pictures, teach a classifier."""

from __future__ import annotations

from webui.bench import Bench
from webui.empty_state import build_empty_state

TITLE = "Multimodal"


def build(bench: Bench) -> None:
    build_empty_state(
        TITLE,
        "Ask questions about pictures, and teach a classifier with your own.",
        (
            "Drop a picture, ask, get an answer in words.",
            "Caption many pictures at once.",
            "Train a picture classifier from folders.",
        ),
    )
