"""Which rows are measured and not learned: a share of the set, or a set of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.finetune.datasets import Datasets, Kept

SHARE = "A share of its rows, as the settings say"


class ValidationPanel:
    """A dropdown with the other datasets. What is chosen is a change of this one, with undo."""

    def __init__(self, datasets: Datasets) -> None:
        self.datasets = datasets

    def place(self) -> None:
        self.chosen = gr.Dropdown(
            [(SHARE, "")], value="", label="Validate with", visible=False, interactive=True,
            elem_id="finetune-validation",
            info="Measured at each snapshot, never learned: what is in both is left out.",
        )  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        return [self.chosen]

    def wire(self, chosen: Any, changed: Callable[..., None]) -> None:
        """`chosen` is the dropdown of datasets. `changed(listen, do, inputs)` joins a change."""
        changed(self.chosen.input, self.choose, [chosen, self.chosen])

    def hidden(self) -> list[Any]:
        return [gr.Dropdown(visible=False)]

    def shown(self, kept: Kept) -> list[Any]:
        others = [(k.name, k.id) for k in self.datasets.all() if k.id != kept.id]
        known = {id for _, id in others}
        value = kept.how.validation if kept.how.validation in known else ""
        choices = [(SHARE, ""), *others]
        return [gr.Dropdown(choices=choices, value=value, visible=bool(others))]

    def choose(self, kept: Kept, id: str | None) -> None:
        """Raises Refused for one that is gone."""
        if id == kept.id:
            raise Refused("A set cannot be validated with itself.", "Choose another one.")
        if id:
            self.datasets.get(id)
        self.datasets.change(kept.id, validation=id or "")
