"""From what the page shows to a request in the queue, and from a picture back to what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from backends.base import Refused
from backends.image.params import ImageParams
from backends.models.library import Listed
from backends.params import read
from webui.bench import Bench
from webui.image.entry import Entry
from webui.image.variations import variations

VARIATIONS = 4
PREVIEW_EVERY = 2  # steps


@dataclass(frozen=True)
class Wish:
    """What the page shows: a model, how it is loaded, what ImageParams takes."""

    listed: Listed
    options: dict[str, Any]
    params: dict[str, Any]


async def ask(bench: Bench, wish: Wish, many: int, page: str = "") -> Entry:
    """Put it at the end of the queue. Raises Refused, ValueError for what cannot be drawn."""
    if not wish.params.get("prompt", "").strip() and not wish.params.get("image"):
        raise Refused("There is nothing to draw yet.", "Write what is to be seen.")
    params = {**wish.params, "preview_every": PREVIEW_EVERY}
    read(ImageParams, params)
    return await bench.pictures.add(
        str(wish.listed.ref), params, options=wish.options, batches=many, page=page
    )


async def vary(bench: Bench, recipe: Mapping[str, Any], page: str = "") -> Entry:
    """Some pictures that are nearly the one with this recipe. Raises Refused."""
    settings, _ = from_recipe(bench, recipe)
    model = model_of(bench, recipe)
    if not model:
        raise Refused(
            "The model that drew this picture is not on this machine.",
            "Choose another one with Use its settings, then draw.",
        )
    base = {**settings, "variation": 0.0, "preview_every": PREVIEW_EVERY}
    return await bench.pictures.add(
        str(bench.find(model).ref), base, changes=variations(base, VARIATIONS), page=page
    )


def from_recipe(bench: Bench, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that a recipe names and this version knows, and sentences on what differs."""
    settings, differs = {}, []
    for field in fields(ImageParams):
        name = field.name
        if name not in recipe or field.metadata.get("hidden"):
            continue
        try:
            read(ImageParams, {name: recipe[name]})
        except ValueError as error:
            differs.append(f"{field.metadata['label']} is left as it was: {error}")
            continue
        settings[name] = recipe[name]
    if recipe.get("model") and not model_of(bench, recipe):
        title = recipe.get("model_title") or recipe["model"]
        differs.append(f"Its model, {title}, is not on this machine: another one is chosen.")
    if recipe.get("kind") not in (None, "", "text"):
        differs.append("It was begun from a picture, which is not part of its settings.")
    return settings, differs


def model_of(bench: Bench, recipe: Mapping[str, Any]) -> str:
    """The id of the model that a recipe names; "" where it is not on this machine."""
    named = str(recipe.get("model") or "")
    for listed in bench.models("image"):
        if named and named in (str(listed.ref), listed.id) and not listed.problem:
            return listed.id
    return ""
