"""A recipe on this machine: which model and adapters it means here, and what cannot be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from backends.image.params import SIDE, ImageParams
from backends.image.recipe import short_name
from backends.params import read

PROGRAMS = {
    "a1111": "AUTOMATIC1111 or one like it", "comfyui": "ComfyUI", "invokeai": "InvokeAI",
    "fooocus": "Fooocus",
}  # fmt: skip
COPIED = (
    "prompt", "negative", "steps", "guidance", "width", "height", "seed", "scheduler", "strength",
    "variation", "variation_seed", "clip_skip", "enlarge", "enlarge_strength",
)  # fmt: skip
BEGUN = ("image", "inpaint", "outpaint", "img2img")  # kinds that begin with a picture
TOLD = 12  # names of settings that are listed


@dataclass(frozen=True)
class Here:
    """What this machine has. Models and adapters are pairs of reference and title."""

    models: tuple[tuple[str, str], ...] = ()
    adapters: tuple[tuple[str, str], ...] = ()
    schedulers: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def at_home(recipe: Mapping[str, Any], here: Here) -> dict[str, Any]:
    """The recipe with references of this machine: "" in "model" where it is not here, and only
    the adapters that are."""
    model = _found(recipe.get("model"), recipe.get("model_title"), here.models)
    adapters = [
        {"ref": ref, "weight": max(-2.0, min(2.0, float(one.get("weight", 1.0))))}
        for one in recipe.get("adapters") or ()
        if (ref := _found(one.get("ref"), one.get("name"), here.adapters))
    ]
    once = {one["ref"]: one for one in adapters}
    return {**recipe, "model": model, "adapters": list(once.values())[:8]}


def to_params(recipe: Mapping[str, Any], here: Here) -> tuple[dict[str, Any], list[str]]:
    """What fills the form, as `ImageParams` takes it, and what had to be changed, as sentences."""
    params: dict[str, Any] = {}
    said: list[str] = []
    labels = {f.name: str(f.metadata["label"]) for f in fields(ImageParams)}
    for name in COPIED:
        value = recipe.get(name)
        if value is None or (name == "scheduler" and value not in here.schedulers):
            continue
        if name in ("width", "height") and isinstance(value, int) and value % SIDE:
            value = max(32, round(value / SIDE) * SIDE)
            said.append(f"The {name} is {recipe[name]} px there and {value} px here.")
        try:
            read(ImageParams, {name: value})
        except ValueError:
            said.append(f"{labels[name]} cannot be {str(value)[:40]} here and stays as it is.")
        else:
            params[name] = value
    if params.get("width", 0) * params.get("height", 0) > 4096 * 4096:
        said.append(f"{params.pop('width')} x {params.pop('height')} px are too many here.")
    if adapters := at_home(recipe, here)["adapters"]:
        params["adapters"] = adapters
    return params, said


def differences(recipe: Mapping[str, Any], here: Here) -> list[str]:
    """What cannot be the same here, as sentences; none where it can."""
    return [
        *_models(recipe, here),
        *_scheduler(recipe, here),
        *to_params(recipe, here)[1],
        *_origin(recipe, here),
    ]


def _models(recipe: Mapping[str, Any], here: Here) -> list[str]:
    said = []
    named = str(recipe.get("model_title") or short_name(str(recipe.get("model") or "")))
    if not named:
        said.append("It does not say which model drew it.")
    elif not at_home(recipe, here)["model"]:
        said.append(f"The model {named[:80]!r} is not on this machine.")
    for one in recipe.get("adapters") or ():
        if not _found(one.get("ref"), one.get("name"), here.adapters):
            called = str(one.get("name") or short_name(str(one.get("ref") or "")))
            said.append(f"The adapter {called[:80]!r} is not on this machine and is left out.")
    return said


def _scheduler(recipe: Mapping[str, Any], here: Here) -> list[str]:
    name = recipe.get("scheduler")
    if not name or name in here.schedulers:
        return []
    return [f"The scheduler {str(name)[:60]!r} is not known here. The one that is chosen stays."]


def _origin(recipe: Mapping[str, Any], here: Here) -> list[str]:
    """What comes of where it was drawn, and of what a recipe does not hold."""
    said = []
    if program := PROGRAMS.get(str(recipe.get("source"))):
        said.append(
            f"{program} drew it, with random numbers of its own: the same seed gives another "
            "picture here."
        )
    others = [
        f"{name} {version} (here {here.versions[name]})"
        for name, version in (recipe.get("versions") or {}).items()
        if name in here.versions and here.versions[name] != version
    ]
    if others:
        said.append(f"It was drawn with {', '.join(others)}: small differences are possible.")
    if recipe.get("kind") in BEGUN or (program and recipe.get("strength") is not None):
        said.append("It began with another picture, which is not in this one.")
    if unknown := list(recipe.get("unknown") or ()):
        more = f" and {len(unknown) - TOLD} more" if len(unknown) > TOLD else ""
        said.append(f"There is no setting here for {', '.join(unknown[:TOLD])}{more}.")
    return said


def _found(ref: Any, name: Any, known: tuple[tuple[str, str], ...]) -> str:
    """The reference of this machine: the same one, or what is called so."""
    if ref and any(ref == other for other, _ in known):
        return str(ref)
    called = {str(n).casefold() for n in (name, short_name(str(ref or ""))) if n}
    for other, title in known:
        if {title.casefold(), short_name(other).casefold()} & called:
            return other
    return ""
