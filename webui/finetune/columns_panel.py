"""What the columns of a dataset mean, and how its file is read, where the guess is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.finetune.data.forms import MEANINGS, Mapping
from backends.finetune.data.reading import ReadOptions
from backends.finetune.data.table_rows import SEPARATORS
from backends.params import read
from webui.finetune import view
from webui.finetune.datasets import Datasets, Kept

NAMES = tuple(f.name for f in fields(Mapping) if f.name != "form")
READINGS = tuple(f.name for f in fields(ReadOptions))
OF_KIND = {  # which of them say anything, by what the file was found to be
    "table": ("encoding", "separator", "header"),
    "text": ("encoding", "text_rows"),
    "json": ("encoding",),
    "jsonl": ("encoding",),
    "parquet": (),
}


class ColumnsPanel:
    """Two folds under what is known of the dataset. What is set there is a change with undo.

    `outputs` are filled by `shown`, once for each look: what somebody chooses meanwhile stays.
    """

    def __init__(self, datasets: Datasets) -> None:
        self.datasets = datasets

    def place(self) -> None:
        forms = next(f for f in fields(Mapping) if f.name == "form")
        with gr.Accordion(
            "Columns", open=False, visible=False, elem_id="finetune-columns"
        ) as self.columns:
            self.cells = gr.HTML()
            self.form = gr.Dropdown(
                _pairs(forms), value="chat", label=forms.metadata["label"],
                elem_id="finetune-form",
            )  # fmt: skip
            with gr.Row(elem_classes="mapping"):
                self.meant = [
                    gr.Dropdown(
                        [("(none)", "")],
                        value="",
                        label=f.metadata["label"],
                        min_width=190,
                        elem_id=f"finetune-column-{f.name}",
                    )  # fmt: skip
                    for f in fields(Mapping)
                    if f.name in NAMES
                ]
            self.mapped = gr.Button(
                "Use these columns", size="sm", variant="primary", elem_id="finetune-map"
            )
        with gr.Accordion(
            "Reading", open=False, visible=False, elem_id="finetune-reading"
        ) as self.reading:
            self.read = [
                gr.Dropdown(
                    _pairs(f),
                    value=f.default,
                    label=f.metadata["label"],
                    info=f.metadata["help"] or None,
                    elem_id=f"finetune-reading-{f.name}",
                )  # fmt: skip
                for f in fields(ReadOptions)
            ]
            self.reread = gr.Button(
                "Read it so", size="sm", variant="primary", elem_id="finetune-reread"
            )

    @property
    def outputs(self) -> list[Any]:
        return [self.columns, self.cells, self.form, *self.meant, self.reading, *self.read]

    def wire(self, chosen: Any, changed: Callable[..., None], now: dict[str, Any]) -> None:
        """`chosen` is the dropdown of datasets. `changed(listen, do, inputs)` joins a change."""
        self.form.input(self.fields_of, self.form, self.meant, **now)
        changed(self.mapped.click, self.map, [chosen, self.form, *self.meant])
        changed(self.reread.click, self.read_as, [chosen, *self.read])

    # Showing

    def hidden(self) -> list[Any]:
        rest: list[Any] = [gr.skip()] * (len(self.outputs) - 2)
        folded = gr.Accordion(visible=False)
        at = 2 + len(NAMES)
        return [folded, *rest[:at], folded, *rest[at:]]

    def shown(self, kept: Kept, about: dict[str, Any]) -> list[Any]:
        """Filled from what the doctor said of it; unfolded where the columns are not known."""
        mapping, names = about["mapping"], about["columns"]
        choices = [("(none)", ""), *((name, name) for name in names)]
        wanted = MEANINGS[mapping["form"]]
        meant = [
            gr.Dropdown(
                choices=choices,
                value=mapping[n] if mapping[n] in names else "",
                visible=n in wanted,
            )  # fmt: skip
            for n in NAMES
        ]
        kind = about["read"]["kind"]
        return [
            gr.Accordion(visible=True, open=bool(about["missing"])),
            view.columns(about),
            gr.Dropdown(value=mapping["form"]),
            *meant,
            gr.Accordion(visible=bool(OF_KIND[kind])),
            *(self._reading(kept, f, about["read"]) for f in fields(ReadOptions)),
        ]

    def _reading(self, kept: Kept, f: Field[Any], found: dict[str, Any]) -> Any:
        """One setting of how it is read; with what was guessed beside "as guessed"."""
        value = kept.how.reading.get(f.name, f.default)
        guessed = {"encoding": found["encoding"], "separator": SEPARATORS.get(found["separator"])}
        pairs = _pairs(f)
        if not value and guessed.get(f.name):
            pairs[0] = (f"as guessed: {guessed[f.name]}", "")
        visible = f.name in OF_KIND[found["kind"]]
        return gr.Dropdown(choices=pairs, value=value, visible=visible)

    def fields_of(self, form: str) -> list[Any]:
        """The meanings that a row of this form has."""
        wanted = MEANINGS.get(form, ())  # type: ignore[call-overload]
        return [gr.Dropdown(visible=name in wanted) for name in NAMES]

    # Changing

    def map(self, kept: Kept, form: str, *meant: str | None) -> None:
        """Raises Refused where a column that the form needs is not chosen."""
        wanted = MEANINGS.get(form, ())  # type: ignore[call-overload]
        chosen = {n: str(c) for n, c in zip(NAMES, meant, strict=True) if c and n in wanted}
        mapping = read(Mapping, {"form": form, **chosen})
        if missing := mapping.missing():
            raise Refused("These columns are not enough.", missing)
        self.datasets.change(kept.id, mapping={"form": form, **chosen})

    def read_as(self, kept: Kept, *values: str | None) -> None:
        """What its columns mean stays only where they have the same names: else they are asked."""
        given = dict(zip(READINGS, values, strict=True))
        defaults = {f.name: f.default for f in fields(ReadOptions)}
        reading = {n: v for n, v in given.items() if v is not None and v != defaults[n]}
        read(ReadOptions, reading)
        before = {n: v for n, v in kept.how.reading.items() if n != "encoding"}
        same = before == {n: v for n, v in reading.items() if n != "encoding"}
        mapping = kept.how.mapping if same else {}
        self.datasets.change(kept.id, reading=reading, mapping=mapping)


def _pairs(f: Field[Any]) -> list[tuple[str, str]]:
    return [(str(label), str(value)) for value, label in f.metadata["choices"]]
