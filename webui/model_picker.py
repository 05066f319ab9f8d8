"""Which model, loaded how, in which state: a panel that several tabs use."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from backends import BACKENDS
from backends.base import Refused
from backends.events import Done, Failed, Notice, Progress
from backends.models.library import Listed
from backends.runtime.resident import held_bytes
from webui.bench import Bench, Loading, sentences
from webui.fit_panel import build_fit_buttons, chosen_change, fits_html
from webui.form import Form, build_form
from webui.hand_over import TAKEN, Handed, handed_of
from webui.opening import when_open

NONE_YET = (
    "No model for this task is on this machine. Get one on the Models tab, or put a folder with a "
    "model into {folder}."
)

MOVING = {
    "loading": "Loading",
    "parking": "On its way into RAM",
    "returning": "On its way back from RAM",
}
ON_CPU = (
    "This build of llama.cpp runs GGUF on the CPU; docs/troubleshooting.md says how to change it."
)


@dataclass(frozen=True)
class Picker:
    """The placed components. `inputs` are the model's name and every backend's load options."""

    bench: Bench
    task: str
    model: Any
    status: Any
    load: Any
    cancel: Any
    unload: Any
    forms: dict[str, Form]
    groups: dict[str, Any]
    handed: Any  # what another tab sent here (webui/hand_over.py), as a hidden text

    @property
    def first(self) -> Listed | None:
        """What is chosen when the page opens."""
        return first_choice(self.bench, self.bench.models(self.task))

    @property
    def inputs(self) -> list[Any]:
        return [self.model, *(c for form in self.forms.values() for c in form.components)]

    def shown(self) -> list[Any]:
        """What shows a choice made elsewhere: the model, then what `show` fills."""
        return [self.model, self.status, *self.groups.values()]

    def show(self, name: str | None, *values: Any) -> list[Any]:
        """The status line and which load options are seen, for [status, *groups]. `values` are
        the load options, of `inputs`; without them the usual ones count."""
        listed = next((m for m in self.bench.models(self.task) if m.id == name), None)
        backend = listed.backend if listed else ""
        status = model_status(self.bench, listed, self.options_of(listed, values))
        return [status, *(gr.Column(visible=name == backend) for name in self.groups)]

    def again(
        self, wanted: str | None, status: str | None, name: str | None, *values: Any
    ) -> list[Any]:
        """The list as it is now, with `wanted` chosen where it is there, for `shown()`. `status`,
        `name` and `values` are what the page shows: the status line, then `inputs`."""
        listed = self.bench.models(self.task)
        first = first_choice(self.bench, listed)
        known = wanted in [m.id for m in listed]
        chosen = wanted if known else first.id if first else None
        choices = [(choice_label(m), m.id) for m in listed]
        line, *columns = self.show(chosen, *values)
        if chosen != name:
            return [gr.Dropdown(choices=choices, value=chosen), line, *columns]
        # Only what must change is set: the user may have chosen another meanwhile, and what is
        # typed into options would be gone once they were out of sight.
        line = gr.skip() if line == status else line
        return [gr.Dropdown(choices=choices), line, *(gr.skip() for _ in columns)]

    def refresh(self, status: str | None, name: str | None, *values: Any) -> list[Any]:
        return self.again(name, status, name, *values)

    def open_first(self, status: str | None, name: str | None, *values: Any) -> list[Any]:
        """A page that opens while a model loads shows that one."""
        bench = self.bench
        loading = (m.id for m in bench.models(self.task) if str(m.ref) in bench.loadings)
        return self.again(next(loading, name), status, name, *values)

    def take(self, text: str, status: str | None, name: str | None, *values: Any) -> list[Any]:
        """What another tab has handed over. The rest of the tab hears of it by the hidden box."""
        try:
            handed = handed_of(text)
        except (Refused, ValueError):  # the tab says so
            return [text, *(gr.skip() for _ in self.shown())]
        # A model that is chosen already is not begun with anew by itself.
        sent = handed if handed.fresh or handed.id != name else Handed("")
        return [sent.as_text(), *self.again(handed.id, status, name, *values)]

    def chosen(self, values: tuple[Any, ...]) -> tuple[Listed, dict[str, Any]]:
        """The model and its load options, from the values of `inputs`. Raises Refused."""
        name, rest = values[0], list(values[1:])
        if not name:
            raise Refused("No model is chosen.", "Pick one from the list.")
        listed = self.bench.find(str(name))
        if listed.problem:
            raise Refused(*sentences(listed.problem))
        return listed, self._read(listed, rest)

    def _read(self, listed: Listed, rest: list[Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for backend, form in self.forms.items():
            mine, rest = rest[: len(form.names)], rest[len(form.names) :]
            if backend == listed.backend:
                options = form.read(mine)
        return options

    def change(self, event: gr.EventData, *values: Any) -> list[Any]:
        """The load options with what a button under the status line changes in them."""
        listed = next((m for m in self.bench.models(self.task) if m.id == values[0]), None)
        rest, shown = list(values[1:]), list[Any]()
        for backend, form in self.forms.items():
            mine, rest = rest[: len(form.names)], rest[len(form.names) :]
            if listed and backend == listed.backend:
                shown += chosen_change(event, form, form.read(mine))
            else:
                shown += [gr.skip()] * len(mine)
        return shown

    def options_of(self, listed: Listed | None, values: tuple[Any, ...]) -> dict[str, Any] | None:
        """The load options among the values of `inputs`; None where one of them is wrong."""
        if listed is None or not values:
            return {}
        try:
            return self._read(listed, list(values))
        except (Refused, ValueError):  # Load says what is wrong with it
            return None


def build_model_picker(bench: Bench, task: str) -> Picker:
    listed = bench.models(task)
    first = first_choice(bench, listed)
    with gr.Group(elem_classes="panel"):
        model = gr.Dropdown(
            [(choice_label(m), m.id) for m in listed], value=first.id if first else None,
            label="Model", elem_id=f"{task}-model", interactive=True, filterable=True,
        )  # fmt: skip
        status = gr.HTML(model_status(bench, first, {}), elem_id=f"{task}-model-status")
        ways = build_fit_buttons(task)
        handed = gr.Textbox(visible=False)
        take = gr.Button("Take", visible="hidden", elem_id=f"{task}-take")
        with gr.Row(elem_classes="buttons"):
            load = gr.Button("Load", variant="primary", size="sm", elem_id=f"{task}-load")
            cancel = gr.Button("Cancel", size="sm", visible=False, elem_id=f"{task}-load-cancel")
            unload = gr.Button("Unload", size="sm", elem_id=f"{task}-unload")
        forms, groups = {}, {}
        with gr.Accordion("How to load it", open=False, elem_id=f"{task}-load-options"):
            for name, backend in BACKENDS.items():
                if backend.card.task == task:
                    with gr.Column(visible=bool(first and first.backend == name)) as groups[name]:
                        forms[name] = build_form(
                            backend.card.load_options, prefix=f"{task}-{name}", fold=False
                        )
    picker = Picker(bench, task, model, status, load, cancel, unload, forms, groups, handed)
    _wire(picker, take)
    ways.select(
        picker.change, picker.inputs, picker.inputs[1:], queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    return picker


def _wire(picker: Picker, take: Any) -> None:
    bench, task = picker.bench, picker.task
    outputs = [picker.status, picker.load, picker.cancel]

    async def follow_load() -> AsyncGenerator[list[Any], None]:
        yield [gr.skip()] * 3  # a generator that yields nothing would empty them
        known = {str(m.ref): m for m in bench.models(task)}
        for ref, loading in list(bench.loadings.items()):
            if ref in known:
                async for status, busy in watch_load(bench, known[ref], loading):
                    yield [status, gr.Button(interactive=not busy), gr.Button(visible=busy)]

    async def load(*values: Any) -> AsyncGenerator[list[Any], None]:
        async for status, busy in load_and_tell(picker, values):
            yield [status, gr.Button(interactive=not busy), gr.Button(visible=busy)]

    async def cancel(name: str | None) -> None:  # async: tasks belong to the event loop
        chosen = next((m for m in bench.models(task) if m.id == name), None)
        if chosen and (loading := bench.loadings.get(str(chosen.ref))):
            loading.cancel()

    def reckon(name: str | None, *values: Any) -> Any:
        """The line for other load options; nothing where the model is there or on its way."""
        listed = next((m for m in bench.models(task) if m.id == name), None)
        if listed is None or bench.resident_of(listed):
            return gr.skip()
        return picker.show(name, *values)[0]

    async def unload(name: str) -> str:
        return await unload_and_tell(bench, name)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    shown = picker.shown()
    seen = [picker.status, *picker.inputs]
    when_open(picker.open_first, seen, shown, queue=False, **quiet)
    handing = [picker.handed, *seen]
    take.click(
        picker.take, handing, [picker.handed, *shown], js=TAKEN, queue=False,
        trigger_mode="multiple", **quiet,
    )  # fmt: skip
    if tab := tab_of(gr.context.Context.block):  # a model may have come meanwhile, or been chosen
        tab.select(picker.refresh, seen, shown, queue=False, **quiet)
    when_open(follow_load, None, outputs, **quiet)
    picker.model.input(picker.show, picker.inputs, shown[1:], queue=False, **quiet)
    for component in picker.inputs[1:]:
        component.change(
            reckon, picker.inputs, picker.status, queue=False, trigger_mode="always_last", **quiet
        )
    picker.load.click(load, picker.inputs, outputs, **quiet)
    picker.cancel.click(cancel, picker.model, None, queue=False, **quiet)
    picker.unload.click(unload, picker.model, picker.status, **quiet)


def tab_of(block: Any) -> gr.Tab | None:
    """The tab in which `block` stands; None on a page without tabs."""
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    return block


async def load_and_tell(
    picker: Picker, values: tuple[Any, ...]
) -> AsyncGenerator[tuple[str, bool], None]:
    """The status line as HTML while a model loads, and whether it still does."""
    try:
        listed, options = picker.chosen(values)
        yield progress_bar(Progress(0, 0, "Starting"), "Loading"), True
        loading = picker.bench.load(listed, options, picker.task)
        async for status in watch_load(picker.bench, listed, loading):
            yield status
    except Refused as refused:
        yield problem(str(refused), refused.detail), False


async def watch_load(
    bench: Bench, listed: Listed, loading: Loading
) -> AsyncGenerator[tuple[str, bool], None]:
    """The same for a load that is under way already."""
    notices = ""
    async for event in loading.outcome():
        if isinstance(event, Progress):
            yield notices + progress_bar(event, "Loading"), True
        elif isinstance(event, Notice):
            notices += line(event.message, "note")
        elif isinstance(event, Failed):
            yield notices + problem(str(event), event.detail), False
        elif isinstance(event, Done):
            yield notices + model_status(bench, listed), False


async def unload_and_tell(bench: Bench, name: str) -> str:
    try:
        listed = bench.find(name)
    except Refused as refused:
        return problem(str(refused))
    resident = bench.resident_of(listed)
    if resident is None:
        return line("It is not loaded.", "note")
    back = held_bytes(await bench.unload(resident))
    if resident.child and resident.child.alive:
        return problem(
            f"The process of {listed.title} would not end: {gigabytes(back)} came back so far. "
            "Where the rest stays away, restart the computer."
        )
    return line(f"Unloaded: {gigabytes(back)} came back.", "note")


def first_choice(bench: Bench, listed: list[Listed]) -> Listed | None:
    """What to begin with: a real model that can be loaded; with a GPU, one that uses it."""
    usable = [m for m in listed if not m.problem]
    real = [m for m in usable if m.bytes]
    quick = [m for m in real if bench.device_of(m.backend, {}) != "cpu"]
    return next(iter(quick or real or usable), None)


def choice_label(listed: Listed) -> str:
    return listed.title + (" · cannot be loaded" if listed.problem else "")


def model_status(bench: Bench, listed: Listed | None, options: dict[str, Any] | None = None) -> str:
    """One line of HTML: not loaded, loading, ready with time and memory, or what is wrong. Before a
    load with these `options` a second one: what it needs, and whether that fits."""
    if listed is None:
        return line(NONE_YET.format(folder=bench.home / "models"), "note")
    if listed.problem:
        return problem(listed.problem)
    resident = bench.resident_of(listed)
    if resident is None:
        size = f"{gigabytes(listed.bytes)} on disk. " if listed.bytes else ""
        slow = ON_CPU if listed.format == "gguf" and runs_beside_the_gpu(bench, listed) else ""
        text = f"{size}Not loaded: it loads by itself when it is first asked. {slow}"
        return line(text, "note") + fits_html(bench, listed, options)
    if resident.state in ("ready", "busy", "stuck"):
        word = {"ready": "Ready", "busy": "Busy", "stuck": "Not responding"}[resident.state]
        return line(
            f"{word} · loaded in {resident.seconds:.1f} s · {gigabytes(resident.held_bytes)}",
            "good",
        )
    if resident.state == "parked":
        seconds = max(1, round(resident.back_in_seconds))
        size = f" · {gigabytes(resident.parked_bytes)}" if resident.parked_bytes else ""
        return line(f"Parked in RAM · back in about {seconds} s{size}", "note")
    if resident.state in MOVING:
        return line(MOVING[resident.state], "note")
    if resident.failed:
        return problem(str(resident.failed), resident.failed.detail)
    return line("Stopped", "note")


def runs_beside_the_gpu(bench: Bench, listed: Listed) -> bool:
    """There is a GPU, and this model would not use it."""
    return bench.reading.has_gpu and bench.device_of(listed.backend, {}) == "cpu"


def line(text: str, kind: str) -> str:
    return f'<div class="line {kind}">{escape(text)}</div>'


def problem(text: str, detail: str = "") -> str:
    """A fault as people read it, with the technical part folded away."""
    return f'<div class="line bad" role="alert">{escape(text)}</div>{details("Details", detail)}'


def details(summary: str, text: str) -> str:
    """Something technical, folded; nothing where there is no text."""
    if not text:
        return ""
    fold = f"<summary>{escape(summary)}</summary><pre>{escape(text)}</pre>"
    return f'<div class="line note"><details>{fold}</details></div>'


def progress_bar(progress: Progress, word: str) -> str:
    known = progress.total > 0
    share = min(100.0, 100 * progress.step / progress.total) if known else 0.0
    label = escape(progress.note or word) + (f" · {share:.0f} %" if known else "")
    style = f' style="width:{share:.0f}%"' if known else ""
    return (
        f'<div class="line note">{label}</div><div class="bar{"" if known else " unknown"}" '
        f'role="progressbar" aria-label="{label}"><i{style}></i></div>'
    )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
