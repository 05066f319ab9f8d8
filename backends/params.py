"""A params dataclass is the form, the check, the saved JSON, the API's schema and the help text.

    @dataclass(frozen=True)
    class ImageParams(Params):
        steps: int = setting(20, "Steps", min=1, max=100, help="More is slower and finer.")

`read` builds one from JSON and says in a sentence what is wrong; `schema` describes it as JSON
Schema; `webui.form` draws it.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
JSON_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def setting(
    default: Any,
    label: str,
    *,
    help: str = "",
    min: float | None = None,
    max: float | None = None,
    step: float | None = None,
    choices: tuple[Any, ...] = (),
    lines: int = 1,
    advanced: bool = False,
    hidden: bool = False,
    unit: str = "",
) -> Any:
    """A dataclass field with what a form, a check and a help page need to know of it.

    `choices` are values or (value, label) pairs; `lines` > 1 asks for a text box; `advanced`
    folds it away; `hidden` keeps it out of the form (it is still checked and saved).
    """
    metadata = {
        "label": label,
        "help": help,
        "min": min,
        "max": max,
        "step": step,
        "choices": choices,
        "lines": lines,
        "advanced": advanced,
        "hidden": hidden,
        "unit": unit,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Params:
    """What one run, or one load, is asked to do. A wrong one cannot be built.

    Subclasses that check more override `__post_init__`, call this one first, and raise
    `ValueError("what is wrong. What to do.")`.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_bounds(f, getattr(self, f.name))


def choice_values(f: Field[Any]) -> tuple[Any, ...]:
    """The values a field may take, without their labels; empty where any will do."""
    return tuple(c[0] if isinstance(c, tuple) else c for c in f.metadata.get("choices", ()))


def _check_bounds(f: Field[Any], value: Any) -> None:
    meta = f.metadata
    label = meta.get("label") or f.name
    choices = choice_values(f)
    if choices and value not in choices:
        names = ", ".join(str(c) for c in choices)
        raise ValueError(f"{label} cannot be {value!r}. Choose one of: {names}.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    low, high = meta.get("min"), meta.get("max")
    if value != value or (low is not None and value < low) or (high is not None and value > high):
        span = (
            f"between {low} and {high}"
            if low is not None and high is not None
            else f"of at least {low}"
            if low is not None
            else f"of at most {high}"
        )
        raise ValueError(f"{label} is {value}. Choose a value {span}.")


def read(cls: type[T], data: Any, where: str = "") -> T:
    """Build `cls` from parsed JSON. Raises ValueError, in a sentence, for what does not fit.

    Unknown keys are refused by name, whole floats are taken as ints and ints as floats; nothing
    else is converted.
    """
    name = where or cls.__name__
    if not isinstance(data, dict):
        raise ValueError(f"{name} must be an object, not {_say(data)}. Send named settings.")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise ValueError(f"There is no setting {key!r}. Known are: {', '.join(known)}.")
    values = {}
    for key, f in known.items():
        if key in data:
            values[key] = _read_value(hints[key], data[key], str(f.metadata.get("label") or key))
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"The setting {key!r} is missing. Add it.")
    return cls(**values)


def _read_value(hint: Any, value: Any, name: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{name} cannot be {value!r}. Choose one of: {', '.join(args)}.")
        return value
    if origin in (Union, types.UnionType):
        return _read_union(args, value, name)
    if origin in (tuple, list) or hint in (tuple, list):
        return _read_sequence(hint, value, name)
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, not {_say(value)}. Send named values.")
        return value
    if is_dataclass(hint):
        return read(typing.cast(type, hint), value, name)
    return _read_scalar(hint, value, name)


def _read_union(args: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for arg in args:
        if arg is not type(None):
            try:
                return _read_value(arg, value, name)
            except ValueError as error:
                errors.append(error)
    raise errors[0]


def _read_sequence(hint: Any, value: Any, name: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, not {_say(value)}. Put it in brackets.")
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise ValueError(f"{name} needs {len(args)} entries, not {len(value)}. Add or remove.")
        return tuple(_read_value(a, v, name) for a, v in zip(args, value, strict=True))
    inner = args[0] if args else Any
    return kind(_read_value(inner, v, f"{name} {i + 1}") for i, v in enumerate(value))


def _read_scalar(hint: Any, value: Any, name: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ValueError(f"{name} is {_say(value)}. It must be {wanted.get(hint, str(hint))}.")


def _say(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def to_dict(params: Any) -> dict[str, Any]:
    """The params as plain JSON values: what `read` takes back."""
    return asdict(params)


def schema(cls: type[Any]) -> dict[str, Any]:
    """`cls` as JSON Schema (draft 2020-12), with labels as titles and help as descriptions."""
    hints = typing.get_type_hints(cls)
    properties, required = {}, []
    for f in fields(cls):
        entry = _schema_of(hints[f.name])
        meta = f.metadata
        for key, name in (("title", "label"), ("description", "help"), ("minimum", "min")):
            if meta.get(name) not in (None, ""):
                entry[key] = meta[name]
        if meta.get("max") is not None:
            entry["maximum"] = meta["max"]
        if choice_values(f):
            entry["enum"] = list(choice_values(f))
        if f.default is not MISSING:
            entry["default"] = f.default
        elif f.default_factory is MISSING:
            required.append(f.name)
        properties[f.name] = entry
    return {
        "type": "object",
        "title": cls.__name__,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if hint in JSON_TYPES:
        return {"type": JSON_TYPES[hint]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(a) for a in args]}
    if hint is type(None):
        return {"type": "null"}
    if origin in (tuple, list):
        if origin is tuple and args and args[-1] is not Ellipsis:
            return {"type": "array", "prefixItems": [_schema_of(a) for a in args]}
        return {"type": "array", "items": _schema_of(args[0]) if args else {}}
    if origin is dict or hint is dict:
        return {"type": "object"}
    return schema(typing.cast(type, hint)) if is_dataclass(hint) else {}
