"""Fine-tune: train an adapter on a dropped dataset."""

from __future__ import annotations

from webui.bench import Bench
from webui.empty_state import build_empty_state

TITLE = "Fine-tune"


def build(bench: Bench) -> None:
    build_empty_state(
        TITLE,
        "Drop a dataset, train a LoRA or QLoRA adapter on your card, talk to the result.",
        (
            "Every row of the dataset is checked, and what is wrong is named with its row.",
            "Memory, time and disk are predicted before the start.",
            "Training survives a closed page and a crash, and resumes where it stood.",
        ),
    )
