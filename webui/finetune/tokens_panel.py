"""One row of the dataset as the model will see it: template applied, token by token."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.events import Failed, Item
from backends.models.library import Listed
from webui.bench import Bench
from webui.finetune import view
from webui.finetune.datasets import Datasets
from webui.finetune.looking import ask
from webui.model_picker import line, problem

WINDOW = 10  # rows that one worker tells: the next and the one before come at once
LENGTH = 1024  # tokens, until the training says another


class TokensPanel:
    """A fold with one row; `base`, a dropdown of references, is the model whose tokens are shown.

    `length` (tokens) and `answers_only` may be components of the training's; without them the usual
    ones count.
    """

    def __init__(self, bench: Bench, datasets: Datasets) -> None:
        self.bench, self.datasets = bench, datasets
        self.base: Any = None
        self.length: Any = None
        self.answers_only: Any = None

    def place(self) -> None:
        with gr.Accordion(
            "As the model will see it", open=False, visible=False, elem_id="finetune-tokens"
        ) as self.fold:
            if self.base is None:
                bases = [(m.title, str(m.ref)) for m in trainable(self.bench)]
                self.base = gr.Dropdown(
                    bases, value=bases[0][1] if bases else None, label="Base model",
                    elem_id="finetune-tokens-base",
                )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.before = gr.Button("Previous", size="sm", elem_id="finetune-tokens-before")
                self.number = gr.Number(
                    1, precision=0, minimum=1, container=False, min_width=60, label="Row",
                    elem_id="finetune-tokens-row",
                )  # fmt: skip
                self.next = gr.Button("Next", size="sm", elem_id="finetune-tokens-next")
            self.shown = gr.HTML(elem_id="finetune-tokens-shown")
        self.window = gr.State({})  # of one dataset, as it was read, and one base: rows by number

    def wire(self, chosen: Any, quiet: dict[str, Any]) -> None:
        extra = [c for c in (self.length, self.answers_only) if c is not None]
        inputs = [self.window, chosen, self.base, self.number, *extra]
        outputs = self.outputs[1:]
        for listen, step in ((self.before.click, -1), (self.next.click, 1)):
            listen(self._by(step), inputs, outputs, **quiet)
        events = [self.number.submit, self.base.input, self.fold.expand]
        gr.on(events, self._by(0), inputs, outputs, **quiet)

    @property
    def outputs(self) -> list[Any]:
        return [self.fold, self.window, self.number, self.shown]

    def fresh(self, about: dict[str, Any] | None) -> list[Any]:
        """For `outputs`, with what is known of the dataset: nothing shown yet, and the fold closed,
        so that no worker starts unasked."""
        known = bool(about) and not (about or {})["missing"]
        return [gr.Accordion(visible=known, open=False), {}, 1, ""]

    def _by(self, step: int) -> Any:
        async def show(
            window: dict[str, Any], id: str | None, base: str | None, number: float | None,
            length: float | None = LENGTH, answers_only: bool = True,
        ) -> AsyncGenerator[list[Any], None]:  # fmt: skip
            wanted = max(1, int(number or 1) + step)
            async for told in self.show(
                window, id, base, wanted, int(length or LENGTH), answers_only
            ):
                yield told

        return show

    async def show(
        self, window: dict[str, Any], id: str | None, base: str | None, number: int,
        length: int, answers_only: bool,
    ) -> AsyncGenerator[list[Any], None]:  # fmt: skip
        """Row `number` (from 1, of the file) as [window, number, HTML]."""
        try:
            kept = self.datasets.get(id or "")
        except Refused as refused:
            yield [{}, 1, problem(str(refused))]
            return
        if not base:
            yield [{}, number, problem("No model that can be trained is on this machine.")]
            return
        try:
            base = str(self.bench.find(base).ref)
        except Refused as refused:
            yield [{}, number, problem(str(refused))]
            return
        key = [kept.id, repr(kept.how), base, length, answers_only]
        rows: dict[str, Any] = window.get("rows", {}) if window.get("key") == key else {}
        if (row := rows.get(str(number))) is not None:
            yield [gr.skip(), number, view.tokens(row)]
            return
        yield [gr.skip(), number, line("Reading the row with the model's tokenizer …", "note")]
        start = (number - 1) // WINDOW * WINDOW
        asked = {"do": "tokens", "start": start, "count": WINDOW, "length": length,
                 "answers_only": answers_only}  # fmt: skip
        rows, failed = {}, ""
        async with contextlib.aclosing(ask(self.bench, self.datasets, kept, base, asked)) as events:
            async for event in events:
                if isinstance(event, Item) and event.kind == "tokens":
                    rows[str(start + len(rows) + 1)] = event.data
                elif isinstance(event, Failed):
                    failed = problem(str(event), event.detail)
        if failed:
            yield [{}, number, failed]
        elif row := rows.get(str(number)):
            yield [{"key": key, "rows": rows}, number, view.tokens(row)]
        else:
            last = start + len(rows)
            yield [gr.skip(), max(1, last), line(f"The dataset ends at row {last:,}.", "note")]


def trainable(bench: Bench) -> list[Listed]:
    """Models whose tokens can be told: safetensors, the starter first."""
    found = [m for m in bench.models("chat") if m.backend == "transformers" and not m.problem]
    return sorted(found, key=lambda m: not m.id.startswith("starter:"))
