"""Images: make and edit pictures with diffusion models."""

from __future__ import annotations

from webui.bench import Bench
from webui.empty_state import build_empty_state

TITLE = "Images"


def build(bench: Bench) -> None:
    build_empty_state(
        TITLE,
        "Make and edit pictures with Stable Diffusion models on your card.",
        (
            "Text to picture, picture to picture, inpainting.",
            "Every picture keeps its settings and can be found again.",
            "Train your own style.",
        ),
    )
