"""From what the page shows to a request in the queue, and from a picture back to what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.base import Refused
from backends.image.differences import Here, at_home, differences, to_params
from backends.image.params import SCHEDULERS, ImageParams
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
    settings, differs = from_recipe(bench, recipe)
    model = model_of(bench, recipe)
    if not model:
        raise Refused(
            "The model that drew this picture is not on this machine.",
            "Choose another one with Use its settings, then draw.",
        )
    if recipe.get("kind") not in (None, "", "text") or recipe.get("controls"):
        raise Refused(
            "This picture was begun from another one, which is not in it.",
            "Begin with it instead, with a small change.",
        )
    if left_out := [one for one in differs if "adapter" in one or "scheduler" in one]:
        raise Refused(" ".join(left_out), "Use its settings, change what is missing, then draw.")
    own = {"variation": 0.0, "variation_seed": -1, "preview_every": PREVIEW_EVERY}
    base = {**settings, **own}
    return await bench.pictures.add(
        str(bench.find(model).ref), base, changes=variations(base, VARIATIONS), page=page
    )


def here(bench: Bench) -> Here:
    """What this machine has to draw with."""
    models = tuple((str(m.ref), m.title) for m in bench.models("image") if not m.problem)
    return Here(models=models, schedulers=SCHEDULERS)


def from_recipe(bench: Bench, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a recipe, of whichever program, fills into the form; sentences on what differs here."""
    known = here(bench)
    return to_params(recipe, known)[0], differences(recipe, known)


def model_of(bench: Bench, recipe: Mapping[str, Any]) -> str:
    """The id of the model that a recipe names; "" where it is not on this machine."""
    ref = at_home(recipe, here(bench))["model"]
    return next((m.id for m in bench.models("image") if ref and str(m.ref) == ref), "")
