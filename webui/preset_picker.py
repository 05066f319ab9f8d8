"""Choose saved settings, save the ones that are shown: a panel over a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.params import Params, read
from webui.bench import Bench
from webui.form import Form
from webui.model_picker import line, problem
from webui.opening import when_open
from webui.presets import Presets


@dataclass(frozen=True)
class PresetPicker:
    presets: Presets
    cls: type[Params]
    chosen: Any
    name: Any
    save: Any
    delete: Any
    status: Any

    def wire(self, form: Form) -> None:
        """Choosing fills `form`; saving keeps what it shows, but for what is not a setting."""
        outputs = [self.chosen, self.name, self.status]

        def choose(name: str | None) -> list[Any]:
            if not name:
                return [gr.skip()] * (1 + len(form.components))
            try:
                settings = self.presets.get(name).settings
                read(self.cls, {**settings, **self._needed()})
            except (Refused, ValueError) as error:
                return [problem(f"{error}"), *[gr.skip()] * len(form.components)]
            return ["", *form.fill(settings)]

        def save(name: str, chosen: str | None, *values: Any) -> list[Any]:
            try:
                settings = form.read(values)
                read(self.cls, {**settings, **self._needed()})
                made = self.presets.save(name or chosen or "", settings)
            except (Refused, ValueError) as error:
                return [gr.skip(), gr.skip(), problem(str(error))]
            return [self._dropdown(made.name), "", line(f"Saved as {made.name}.", "good")]

        def delete(chosen: str | None) -> list[Any]:
            try:
                self.presets.delete(chosen or "")
            except Refused as error:
                return [gr.skip(), gr.skip(), problem(str(error))]
            return [self._dropdown(None), "", line(f"{chosen} is deleted.", "note")]

        quiet: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "queue": False,
        }  # fmt: skip
        fields = list(form.components)
        self.chosen.input(choose, self.chosen, [self.status, *fields], **quiet)
        gr.on([self.save.click, self.name.submit], save, [self.name, self.chosen, *fields],
              outputs, **quiet)  # fmt: skip
        self.delete.click(delete, self.chosen, outputs, **quiet)
        when_open(lambda: gr.Dropdown(choices=self._names()), None, self.chosen, **quiet)

    def _names(self) -> list[str]:
        return [p.name for p in self.presets.all()]

    def _dropdown(self, value: str | None) -> Any:
        return gr.Dropdown(choices=self._names(), value=value)

    def _needed(self) -> dict[str, Any]:
        """What a run must have besides its settings."""
        known = "messages" in self.cls.__dataclass_fields__
        return {"messages": [{"role": "user", "content": "-"}]} if known else {}


def build_preset_picker(bench: Bench, task: str, cls: type[Params]) -> PresetPicker:
    presets = Presets(bench.home, task)
    chosen = gr.Dropdown(
        [p.name for p in presets.all()], value=None, label="Preset", elem_id=f"{task}-preset",
        interactive=True, filterable=True,
    )  # fmt: skip
    with gr.Accordion("Keep these settings", open=False, elem_id=f"{task}-presets"):
        name = gr.Textbox(
            label="Name", placeholder="Name of the new preset", max_lines=1,
            elem_id=f"{task}-preset-name",
        )  # fmt: skip
        with gr.Row(elem_classes="buttons"):
            save = gr.Button("Save", size="sm", elem_id=f"{task}-preset-save")
            delete = gr.Button("Delete", size="sm", elem_id=f"{task}-preset-delete")
        status = gr.HTML(elem_id=f"{task}-preset-status")
    return PresetPicker(presets, cls, chosen, name, save, delete, status)
