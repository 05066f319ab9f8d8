"""A foreign recipe on this machine."""

from __future__ import annotations

from typing import Any

from backends.image.differences import Here, at_home, differences, to_params
from backends.image.params import ImageParams
from backends.params import read

HERE = Here(
    models=(("hub:lykon/dreamshaper-8@r", "DreamShaper 8"), ("folder:x:sd_v15.safetensors", "SD")),
    adapters=(("hub:a/ink@r", "Ink"),),
    schedulers=("", "Euler a", "DDIM"),
    versions={"diffusers": "0.42.1"},
)
SAME: dict[str, Any] = {
    "source": "werkbank", "prompt": "fox", "model": "hub:lykon/dreamshaper-8@r", "seed": 1,
    "scheduler": "DDIM", "width": 512, "height": 512, "versions": {"diffusers": "0.42.1"},
    "adapters": [{"ref": "hub:a/ink@r", "name": "ink", "weight": 0.5}], "unknown": {},
}  # fmt: skip


def test_what_was_drawn_here_differs_in_nothing() -> None:
    assert differences(SAME, HERE) == []
    params, said = to_params(SAME, HERE)
    assert said == [] and read(ImageParams, params).seed == 1
    assert params["adapters"] == [{"ref": "hub:a/ink@r", "weight": 0.5}]


def test_models_and_adapters_are_known_by_their_names_too() -> None:
    foreign = {"model_title": "SD_v15", "adapters": [{"ref": "", "name": "INK", "weight": 9}]}
    home = at_home(foreign, HERE)
    assert home["model"] == "folder:x:sd_v15.safetensors"
    assert home["adapters"] == [{"ref": "hub:a/ink@r", "weight": 2.0}]
    assert at_home({"model_title": "dreamshaper 8"}, HERE)["model"] == "hub:lykon/dreamshaper-8@r"


def test_everything_that_cannot_be_the_same_is_a_sentence() -> None:
    foreign = {
        "source": "a1111", "model_title": "gone", "scheduler": "DPM++ 3M SDE", "steps": 500,
        "width": 513, "height": 512, "seed": 2**40, "strength": 0.5,
        "adapters": [{"ref": "", "name": "style", "weight": 1.0}],
        "versions": {"diffusers": "0.40.0"}, "unknown": {"VAE": "x", "ENSD": "1"},
    }  # fmt: skip
    assert differences(foreign, HERE) == [
        "The model 'gone' is not on this machine.",
        "The adapter 'style' is not on this machine and is left out.",
        "The scheduler 'DPM++ 3M SDE' is not known here. The one that is chosen stays.",
        "Steps cannot be 500 here and stays as it is.",
        "The width is 513 px there and 512 px here.",
        "Seed cannot be 1099511627776 here and stays as it is.",
        "AUTOMATIC1111 or one like it drew it, with random numbers of its own: the same seed gives "
        "another picture here.",
        "It was drawn with diffusers 0.40.0 (here 0.42.1): small differences are possible.",
        "It began with another picture, which is not in this one.",
        "There is no setting here for VAE, ENSD.",
    ]
    params, _ = to_params(foreign, HERE)
    read(ImageParams, params)
    assert params == {"width": 512, "height": 512, "strength": 0.5}


def test_a_recipe_that_says_nothing() -> None:
    assert differences({}, HERE) == ["It does not say which model drew it."]
    assert to_params({}, HERE) == ({}, [])


def test_a_huge_size_is_left_out() -> None:
    params, said = to_params({"width": 4096, "height": 4104, "source": "werkbank"}, HERE)
    assert params == {"width": 4096} and len(said) == 1
    read(ImageParams, params)
