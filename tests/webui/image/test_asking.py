"""From a picture back to the form, and what a model is made for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.base import ModelRef, Refused
from backends.image.params import SCHEDULERS
from backends.image.schedulers import TABLE
from backends.models.library import Listed
from webui.image import asking, native

HERE = Listed("folder:here", "Here", "image", ModelRef.parse("folder:here"), "diffusers")


def bench(*models: Listed) -> Any:
    return SimpleNamespace(models=lambda task: list(models) if task == "image" else [])


def test_a_recipe_fills_what_the_form_has_and_nothing_else() -> None:
    known = {"prompt": "a fox", "seed": 7, "steps": 30, "width": 64, "scheduler": "DDIM"}
    other = {"image": "/etc/passwd", "folder": "/tmp", "preview_every": 1, "nonsense": 1}
    recipe = {**known, **other, "model": "folder:here"}
    settings, differs = asking.from_recipe(bench(HERE), recipe)
    assert settings == known
    assert differs == [] and asking.model_of(bench(HERE), recipe) == "folder:here"


def test_a_model_that_is_not_here_is_said_and_none_is_taken() -> None:
    recipe = {"model": "hub:a/b", "model_title": "Gone"}
    _, differs = asking.from_recipe(bench(HERE), recipe)
    assert "'Gone' is not on this machine" in differs[0]
    assert asking.model_of(bench(HERE), recipe) == ""
    assert asking.model_of(bench(HERE), {"model_title": "Here"}) == "folder:here"


def varied(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The changes that four variations of a picture ask for."""
    asked: list[dict[str, Any]] = []

    async def add(model: str, params: dict[str, Any], *, changes: Any, page: str) -> None:
        asked.extend(changes)

    one = bench(HERE)
    one.find = lambda name: HERE
    one.pictures = SimpleNamespace(add=add)
    asyncio.run(asking.vary(one, {"prompt": "a fox", "seed": 7, "model": "folder:here", **recipe}))
    return asked


def test_variations_of_a_variation_have_new_seeds() -> None:
    first = varied({})
    again = varied({"variation": 0.15, "variation_seed": first[0]["variation_seed"]})
    assert {one["seed"] for one in first + again} == {7}
    seeds = [one["variation_seed"] for one in first + again]
    assert len(set(seeds)) == 8 and all(one["variation"] > 0 for one in again)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [({"kind": "inpaint"}, "begun from another one"), ({"controls": [1]}, "begun from another one"),
     ({"model": "hub:gone/x"}, "not on this machine"), ({"scheduler": "Nobody"}, "not known here"),
     ({"adapters": [{"ref": "folder:gone", "weight": 1}]}, "is left out")],
)  # fmt: skip
def test_variations_of_what_cannot_be_drawn_again_are_refused(
    recipe: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        varied(recipe)


def test_the_schedulers_of_the_form_are_those_that_can_be_made() -> None:
    assert set(SCHEDULERS) == set(TABLE)


def test_the_size_that_a_model_was_made_for_is_read_from_its_configs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    folder = home / "models" / "here"
    for name, config in (("unet", {"sample_size": 96}),
                         ("vae", {"block_out_channels": [1, 2, 3, 4]})):  # fmt: skip
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    assert native.native_side(HERE) == 768
    assert native.usual(HERE) == {"width": 768, "height": 768}
    (folder / "unet" / "config.json").write_text('{"sample_size": 1e9}')
    assert native.native_side(HERE) == 0 and native.usual(HERE) == {}
    (folder / "unet" / "config.json").write_text("[" * 100_000)
    assert native.usual(HERE) == {} and native.usual(None) == {}
