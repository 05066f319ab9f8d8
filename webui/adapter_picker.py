"""Which adapters an answer uses, each with its weight: a fold beside a chat's settings.

`with_adapters(form)` gives a form that has them, too: what reads, fills or sends the form does not
need to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from backends.adapter_use import AdapterUse
from backends.models.adapters import ListedAdapter, find_adapter, list_adapters, suits
from backends.models.library import Listed
from webui.form import Form
from webui.model_picker import gigabytes, line, problem
from webui.opening import when_open

SLOTS = 4  # adapters at once on the page; the backends take more
NONE = ("none", "")
HELP = (
    "An adapter (LoRA) changes how the model answers. Put a PEFT folder or a GGUF file into "
    "{folder}."
)


@dataclass(frozen=True)
class FormWithAdapters(Form):
    """A chat's form. The last components are pairs of adapter and weight, in the fold `fold`."""

    fold: Any = None
    models: Callable[[], list[Listed]] = list

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        own = len(self.names) - 2 * SLOTS
        plain = Form(self.cls, self.names[:own], self.components[:own]).read(values[:own])
        return {**plain, "adapters": list(_used(values[own:]))}

    def fill(self, saved: dict[str, Any], model: str = "") -> list[Any]:
        """With what is worth offering for the model of that id; "": with all."""
        own = len(self.names) - 2 * SLOTS
        plain = Form(self.cls, self.names[:own], self.components[:own]).fill(saved)
        return [*plain, *_filled(saved.get("adapters") or [], self.offered(model))]

    def offered(self, model: str) -> list[ListedAdapter]:
        """The adapters for the model of that id."""
        known, models = list_adapters(), self.models()
        listed = next((m for m in models if m.id == model), None)
        return [one for one in known if listed is None or suits(one, listed, models)]


def with_adapters(
    form: Form, *, prefix: str, folder: Any, models: Callable[[], list[Listed]]
) -> FormWithAdapters:
    """Place the fold and return `form` with it. `folder` is where adapters are put, as shown;
    `models` are those that they are for."""
    bounds = {f.name: f.metadata for f in fields(AdapterUse)}["weight"]
    listed = list_adapters()
    dropdowns, sliders = [], []
    with gr.Accordion("Adapters", open=False, elem_id=f"{prefix}-adapters") as fold:
        about = gr.HTML(_about(listed, folder), elem_id=f"{prefix}-adapters-about")
        for slot in range(1, SLOTS + 1):
            dropdowns.append(
                gr.Dropdown(
                    _choices(listed), value="", label=f"Adapter {slot}", interactive=True,
                    visible=slot == 1, elem_id=f"{prefix}-adapter-{slot}",
                )
            )  # fmt: skip
            sliders.append(
                gr.Slider(
                    bounds["min"], bounds["max"], value=1.0, step=bounds["step"], visible=False,
                    label=f"Weight {slot}", elem_id=f"{prefix}-adapter-weight-{slot}",
                    info="0: as without it.",
                )
            )  # fmt: skip
    placed = [part for pair in zip(dropdowns, sliders, strict=True) for part in pair]
    names = [f"{part}_{slot}" for slot in range(1, SLOTS + 1) for part in ("adapter", "weight")]

    def chosen(*refs: str) -> list[Any]:
        """A slot more than are used is shown, and a weight beside each that is."""
        shown = [gr.Dropdown(visible=_open(refs, i)) for i in range(SLOTS)]
        weights = [gr.Slider(visible=bool(ref)) for ref in refs]
        return [*shown, *weights, _about(list_adapters(), folder, refs)]

    def refresh(*refs: str) -> list[Any]:
        found = list_adapters()
        choices = [gr.Dropdown(choices=_choices(found, ref)) for ref in refs]
        return [*choices, _about(found, folder, refs)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    for dropdown in dropdowns:
        dropdown.input(chosen, dropdowns, [*dropdowns, *sliders, about], queue=False, **quiet)
    when_open(refresh, dropdowns, [*dropdowns, about], queue=False, **quiet)
    return FormWithAdapters(
        form.cls, (*form.names, *names), (*form.components, *placed), fold, models
    )


def _used(values: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for ref, weight in zip(values[::2], values[1::2], strict=True):
        if ref:
            yield {"ref": str(ref), "weight": 1.0 if weight is None else float(weight)}


def _filled(uses: list[dict[str, Any]], offered: list[ListedAdapter]) -> Iterator[Any]:
    """The slots for saved adapters; one that is gone meanwhile is still named."""
    refs = [str(use.get("ref", "")) for use in uses[:SLOTS]]
    refs += [""] * (SLOTS - len(refs))
    for slot, ref in enumerate(refs):
        yield gr.Dropdown(choices=_choices(offered, ref), value=ref, visible=_open(refs, slot))
        weight = uses[slot].get("weight", 1.0) if ref else 1.0
        yield gr.Slider(value=weight, visible=bool(ref))


def _open(refs: Sequence[str], slot: int) -> bool:
    return bool(refs[slot]) or all(refs[:slot])


def _choices(listed: list[ListedAdapter], kept: str = "") -> list[tuple[str, str]]:
    """`kept` is chosen already, and stays among them."""
    known = [(_label(one), one.id) for one in listed]
    if kept and kept not in {id for _, id in known}:
        found = find_adapter(kept)
        known.append((_label(found) if found else f"{kept} · not here", kept))
    return [NONE, *known]


def _label(one: ListedAdapter) -> str:
    if one.problem:
        return f"{one.title} · cannot be attached"
    return f"{one.title} · rank {one.rank}" + (" · llama.cpp only" if one.backend else "")


def _about(listed: list[ListedAdapter], folder: Any, refs: Sequence[str] = ()) -> str:
    """What the chosen ones are, as HTML; without any, what an adapter is."""
    by_id = {one.id: one for one in listed}
    chosen = [one for ref in refs if ref and (one := by_id.get(ref) or find_adapter(ref))]
    if not chosen:
        return line(HELP.format(folder=folder), "note")
    return "".join(problem(one.problem) if one.problem else line(_facts(one), "note")
                   for one in chosen)  # fmt: skip


def _facts(one: ListedAdapter) -> str:
    made_for = f"made for {one.base}" if one.base else "does not say for which model"
    return f"{one.title}: {made_for}, changes {', '.join(one.targets)}, {gigabytes(one.bytes)}."
