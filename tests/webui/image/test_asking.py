"""From a picture back to the form, and what a model is made for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.base import ModelRef
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
