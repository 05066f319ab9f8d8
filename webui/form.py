"""A params dataclass as a form, and back. The form knows only what the dataclass says."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from backends.params import Params

SLIDER_SPAN = 100_000  # beyond that a slider is of no use
SLIDER_STEPS = 1500  # of a fraction: finer than the hand


@dataclass(frozen=True)
class Form:
    """The components of a form, in the order of the dataclass's fields."""

    cls: type[Params]
    names: tuple[str, ...]
    components: tuple[Any, ...]

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """What the form holds, as plain JSON for `backends.params.read`, which checks it."""
        hints = typing.get_type_hints(self.cls)
        pairs = zip(self.names, values, strict=True)
        return {name: _as_json(hints[name], value) for name, value in pairs if value is not None}

    def fill(self, saved: dict[str, Any]) -> list[Any]:
        """The values to show for saved settings; a field that is missing keeps its default."""
        by_name = {f.name: f for f in fields(self.cls)}
        return [_as_shown(saved.get(n, default_of(by_name[n]))) for n in self.names]


def build_form(
    cls: type[Params],
    *,
    prefix: str,
    values: dict[str, Any] | None = None,
    skip: Iterable[str] = (),
    fold: bool = True,
) -> Form:
    """Place a component for every setting that is not hidden; advanced ones in a fold.

    `values` stand in for the dataclass's defaults at the start.
    """
    given = values or {}
    shown = [f for f in fields(cls) if not f.metadata.get("hidden") and f.name not in set(skip)]
    basic = [f for f in shown if not (fold and f.metadata.get("advanced"))]
    advanced = [f for f in shown if f not in basic]

    def place(f: Field[Any]) -> Any:
        return component(cls, f, prefix, given.get(f.name, default_of(f)))

    placed = {f.name: place(f) for f in basic}
    if advanced:
        with gr.Accordion("More settings", open=False):
            placed.update({f.name: place(f) for f in advanced})
    names = tuple(f.name for f in shown)
    return Form(cls, names, tuple(placed[n] for n in names))


def component(cls: type[Params], f: Field[Any], prefix: str, value: Any) -> Any:
    """The component for one field, chosen by its type and bounds, showing `value`."""
    meta, hint = f.metadata, typing.get_type_hints(cls)[f.name]
    bounded = type(None) not in get_args(hint)  # a number that may be left out is no slider
    if not bounded:
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    unit = f" ({meta['unit']})" if meta.get("unit") else ""
    common: dict[str, Any] = {
        "label": meta["label"] + unit,
        "info": meta.get("help") or None,
        "value": _as_shown(value),
        "elem_id": f"{prefix}-{f.name.replace('_', '-')}",
    }
    choices = list(meta.get("choices") or (get_args(hint) if get_origin(hint) is Literal else ()))
    if choices:
        pairs = [(c[1], c[0]) if isinstance(c, tuple) else (str(c) or "none", c) for c in choices]
        return gr.Dropdown(choices=pairs, **common)
    if hint is bool:
        return gr.Checkbox(**common)
    if hint in (int, float):
        return _number(hint, meta, common, bounded)
    many = get_origin(hint) in (tuple, list)
    return gr.Textbox(lines=meta.get("lines", 1), max_lines=8 if many else 20, **common)


def _number(hint: Any, meta: Any, common: dict[str, Any], bounded: bool) -> Any:
    low, high = meta.get("min"), meta.get("max")
    step = meta.get("step") or (1 if hint is int else None)
    if bounded and low is not None and high is not None and high - low <= SLIDER_SPAN:
        if hint is int or (high - low) / (step or 1) <= SLIDER_STEPS:
            return gr.Slider(low, high, step=step, **common)
    if not bounded:  # the dataclass says in a sentence what Gradio would refuse without one
        low = high = None
    precision = 0 if hint is int else None
    return gr.Number(minimum=low, maximum=high, step=step or 1, precision=precision, **common)


def default_of(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _as_shown(value: Any) -> Any:
    return "\n".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def _as_json(hint: Any, value: Any) -> Any:
    if get_origin(hint) in (tuple, list) and isinstance(value, str):
        return [line for line in value.split("\n") if line]
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
