"""Images: say what is to be seen, watch it come, find it again, begin with what is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.image.params import ImageParams
from webui.bench import Bench
from webui.form import Form, build_form
from webui.image import asking, begin_panel, native
from webui.image.begin_panel import BeginPanel
from webui.image.foreign import read_picture
from webui.image.panel import build_pictures
from webui.model_picker import Picker, build_model_picker, line, problem
from webui.preset_picker import build_preset_picker

TITLE = "Images"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
MANY = 100  # batches with one press


@dataclass(frozen=True)
class Parts:
    """What handlers read and fill beside the forms."""

    prompt: Any
    negative: Any
    many: Any
    draw: Any
    taken: Any
    said: Any
    pictures: Any


def build(bench: Bench) -> None:
    with gr.Row(elem_classes="work", elem_id="image"):
        with gr.Column(scale=5, min_width=320, elem_classes="middle"):
            with gr.Group(elem_classes="panel"):
                prompt = gr.Textbox(
                    label="Prompt", lines=2, max_lines=8, elem_id="image-prompt",
                    placeholder="What is to be seen: a red fox in the snow, watercolour",
                )  # fmt: skip
                negative = gr.Textbox(
                    label="Negative prompt", lines=1, max_lines=4, elem_id="image-negative",
                    placeholder="What is not to be seen",
                )  # fmt: skip
            begin = begin_panel.build()
            with gr.Row(elem_classes="drawing"):
                draw = gr.Button("Draw", variant="primary", elem_id="image-draw")
                taken = gr.UploadButton(
                    "Settings from a picture", file_types=["image"], size="sm",
                    elem_id="image-taken", min_width=150,
                )  # fmt: skip
                many = gr.Number(
                    1, label="How many", minimum=1, maximum=MANY, precision=0, step=1,
                    elem_id="image-many", min_width=110, scale=0,
                )  # fmt: skip
            said = gr.HTML(elem_id="image-said")
            pictures = build_pictures()
        with gr.Column(scale=2, min_width=260, elem_classes="right"):
            picker = build_model_picker(bench, "image")
            with gr.Group(elem_classes="panel"):
                presets = build_preset_picker(bench, "image", ImageParams)
                form = build_form(
                    ImageParams, prefix="image", skip=("prompt", "negative"),
                    values=native.usual(picker.first),
                )  # fmt: skip
                presets.wire(form)
    parts = Parts(prompt, negative, many, draw, taken, said, pictures)
    Images(bench, parts, picker, form, begin).wire()


class Images:
    """The handlers. Drawing belongs to the queue: they only put something into it."""

    def __init__(
        self, bench: Bench, parts: Parts, picker: Picker, form: Form, begin: BeginPanel
    ) -> None:
        self.bench, self.parts, self.picker, self.form = bench, parts, picker, form
        self.begin = begin

    def wire(self) -> None:
        parts, form = self.parts, self.form
        asked = [parts.prompt, parts.negative, parts.many, *self.begin.inputs]
        inputs = [*asked, *self.picker.inputs, *form.components]
        gr.on(
            [parts.draw.click, parts.prompt.submit], self.draw, inputs, parts.said,
            trigger_mode="multiple", queue=False, **QUIET,
        ).then(
            self.state_of_model, self.picker.inputs, self.picker.status, trigger_mode="multiple",
            **QUIET,
        )  # fmt: skip
        filled = [parts.said, parts.prompt, parts.negative, *self.picker.shown(), *form.components]
        chosen = self.picker.inputs
        parts.pictures.act(self.act, chosen, [*filled, *self.begin.shown()], queue=False, **QUIET)
        parts.taken.upload(self.take, [parts.taken, *chosen], filled, **QUIET)
        self.picker.model.input(
            self.settings_of_model, self.picker.model, list(form.components), queue=False, **QUIET
        )

    async def draw(self, prompt: str, negative: str, many: float | None, *values: Any) -> str:
        """Put what is asked for into the queue."""
        try:
            wish = await self._wish(prompt, negative, values)
            try:
                await asking.ask(self.bench, wish, int(many or 1))
            finally:  # the queue has a copy of its own
                begin_panel.forget(wish.params)
        except (Refused, ValueError) as error:
            return problem(str(error), getattr(error, "detail", ""))
        return ""

    async def state_of_model(self, *values: Any) -> AsyncGenerator[Any, None]:
        """The line under the model while the queue goes on: it loads what it needs."""
        shown = ""
        async with contextlib.aclosing(self.bench.pictures.watch(until_idle=True)) as looks:
            async for _ in looks:
                line = self.picker.show(*values)[0]
                yield gr.skip() if line == shown else line
                shown = line

    async def _wish(self, prompt: str, negative: str, values: tuple[Any, ...]) -> asking.Wish:
        """Everything that the page shows. Raises Refused, ValueError."""
        begun, rest = self.begin.split(values)
        count = len(self.picker.inputs)
        listed, options = self.picker.chosen(rest[:count])
        params = {**self.form.read(rest[count:]), "prompt": prompt, "negative": negative}
        return asking.Wish(listed, options, params | await self.begin.read(self.bench, begun))

    async def act(self, event: gr.EventData, *values: Any) -> list[Any]:
        """A button of a picture."""
        sent: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        act, id = str(sent.get("act", "")), str(sent.get("id", ""))
        skipped = [gr.skip()] * (2 + len(self.picker.shown()) + len(self.form.components))
        untouched = [gr.skip()] * len(self.begin.shown())
        try:
            recipe = await asyncio.to_thread(self.bench.gallery.recipe, id)
            if act == "use":
                return [*self._filled(recipe, values), *untouched]
            if act == "vary":
                await asking.vary(self.bench, recipe)
                return ["", *skipped, *untouched]
            if act == "begin":
                path = await asyncio.to_thread(self.bench.gallery.path, id)
                return [line("Draw changes this picture now.", "note"), *skipped,
                        *self.begin.showing(path)]  # fmt: skip
        except (Refused, ValueError) as error:
            return [problem(str(error)), *skipped, *untouched]
        return ["", *skipped, *untouched]

    async def take(self, file: Any, *values: Any) -> list[Any]:
        """The settings that a dropped picture brings, whichever program drew it."""
        skipped = [gr.skip()] * (2 + len(self.picker.shown()) + len(self.form.components))
        try:
            found = await read_picture(Path(str(file)), self.bench.temp / "gradio")
        except Refused as refused:
            return [problem(str(refused), refused.detail), *skipped]
        if not found.recipe:
            return [line(found.note, "note"), *skipped]
        return self._filled(found.recipe, values)

    def _filled(self, recipe: dict[str, Any], values: tuple[Any, ...]) -> list[Any]:
        """The form as a picture was drawn, and what cannot be the same here."""
        settings, differs = asking.from_recipe(self.bench, recipe)
        model = asking.model_of(self.bench, recipe) or values[0]
        told = line(" ".join(differs), "note") if differs else ""
        return [
            told, settings.pop("prompt", ""), settings.pop("negative", ""),
            *self.picker.again(model, None, *values), *self.form.fill(settings),
        ]  # fmt: skip

    def settings_of_model(self, name: str) -> list[Any]:
        """Size, steps and guidance that the model is made for."""
        listed = next((m for m in self.bench.models("image") if m.id == name), None)
        return self.form.fill(native.usual(listed))
