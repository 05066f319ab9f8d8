"""Which rows are measured and not learned: a share of the set, or a set of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.finetune.datasets import Datasets, Kept

LEARNED = ("chat", "instruction", "text")  # forms of rows that a loss can be taken of
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
        """Raises Refused for one that is gone, or of which the rows are not known to be any."""
        if id == kept.id:
            raise Refused("A set cannot be validated with itself.", "Choose another one.")
        if id:
            other = self.datasets.get(id)
            about = other.said.get("dataset")
            if about is None or about["missing"]:
                raise Refused(
                    f"It is not known yet what {other.name} is.",
                    "Choose it as the dataset once, so that its rows are checked, then come back.",
                )
            if about["mapping"]["form"] not in LEARNED:
                raise Refused(
                    f"The rows of {other.name} have better and worse answers.",
                    "Choose one with questions and answers, or texts.",
                )
        self.datasets.change(kept.id, validation=id or "")

    def check_free(self, id: str) -> None:
        """Raises Refused where another set is validated with this one."""
        users = [kept.name for kept in self.datasets.all() if kept.how.validation == id]
        if id and users:
            raise Refused(
                f"{users[0]} is validated with this set.",
                'Choose another one there under "Validate with", then delete this.',
            )
