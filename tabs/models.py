"""Models: what is on this machine, what fits, what to download."""

from __future__ import annotations

from webui.bench import Bench
from webui.empty_state import build_empty_state

TITLE = "Models"


def build(bench: Bench) -> None:
    build_empty_state(
        TITLE,
        "Find models, see whether they fit your card, download and delete them.",
        (
            "Each model shows whether it fits in 4-bit, 8-bit or full precision.",
            "Downloads resume, and are checked.",
            "Models that are already in the hub cache are found by Chat today.",
        ),
    )
