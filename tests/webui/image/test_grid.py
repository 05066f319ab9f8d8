"""Grids: values as they are typed, every combination, in the order that costs least."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Refused
from webui.image.grid import MOST_VALUES, Axis, Grid, axes, axis, grid_of, parse

PARAMS: dict[str, Any] = {"prompt": "a red fox", "seed": 1, "width": 64, "height": 64}


@pytest.mark.parametrize(
    ("field", "text", "values"),
    [
        ("steps", "10, 20", [10, 20]),
        ("steps", "1-5", [1, 2, 3, 4, 5]),
        ("steps", "5-3", [5, 4, 3]),
        ("steps", "10, 20-50 (+10)", [10, 20, 30, 40, 50]),
        ("steps", "50-20 (-15)", [50, 35, 20]),
        ("steps", "1-10 [4]", [1, 4, 7, 10]),
        ("seed", "1-10 [5]", [1, 3, 5, 7, 10]),
        ("guidance", "0.5-1 [3]", [0.5, 0.75, 1.0]),
        ("guidance", "1-2 (+0.25)", [1.0, 1.25, 1.5, 1.75, 2.0]),
        ("guidance", "7, 7.5", [7.0, 7.5]),
        ("variation", "0 - 0.3 ( +0.1 )", [0.0, 0.1, 0.2, 0.3]),
        ("scheduler", 'Euler, "DPM++ 2M, Karras"', ["Euler", "DPM++ 2M, Karras"]),
        ("prompt_replace", "red, blue", ["red", "blue"]),
        ("adapter_weight", "0-1 [3]", [0.0, 0.5, 1.0]),
        ("model", "starter:a, hub:o/n@r", ["starter:a", "hub:o/n@r"]),
    ],
)
def test_values_are_typed_as_in_automatic1111(field: str, text: str, values: list[Any]) -> None:
    assert parse(field, text) == values
    assert [type(value) for value in parse(field, text)] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("steps", "ten", "no value for 'Steps'"),
        ("steps", "1.5", "whole numbers"),
        ("steps", "1-5 (-1)", "never comes to its end"),
        ("steps", "1-5 (0)", "never comes to its end"),
        ("steps", "1-1000000000", "at most 100 values"),
        ("guidance", "0-1 [999999999999]", "at most 100 values"),
        ("guidance", "1-2", "no value for"),
        ("prompt_replace", "red", "too few values"),
        ("steps", ",", "too few values"),
    ],
)
def test_what_is_no_value_is_said(field: str, text: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(field, text)


@given(st.sampled_from(sorted(axes())), st.text(max_size=60))
def test_whatever_is_typed_gives_values_or_a_sentence(field: str, text: str) -> None:
    try:
        made = axis(field, text)
    except Refused as refused:
        assert refused.message.endswith(".") and refused.hint.endswith(".")
    else:
        assert made is None or 1 <= len(made.values) <= MOST_VALUES
        assert made is None or len(made.labels) == len(made.values)


def test_every_plain_setting_is_offered_and_no_file() -> None:
    assert {"steps", "guidance", "seed", "scheduler", "strength", "model"} <= axes().keys()
    assert not {"image", "mask", "folder", "name", "adapters", "preview_every"} & axes().keys()


def test_no_text_is_no_axis_and_an_unknown_setting_is_refused() -> None:
    assert axis("steps", "  ") is None
    with pytest.raises(Refused, match="cannot be changed"):
        axis("folder", "/etc")


def test_every_combination_is_there_row_by_row() -> None:
    cells = Grid(axis("steps", "1, 2"), axis("guidance", "3, 4")).cells(PARAMS)
    assert [(cell.place, cell.change) for cell in cells] == [
        ((0, 0, 0), {"steps": 1, "guidance": 3.0}),
        ((1, 0, 0), {"steps": 2, "guidance": 3.0}),
        ((0, 1, 0), {"steps": 1, "guidance": 4.0}),
        ((1, 1, 0), {"steps": 2, "guidance": 4.0}),
    ]


@pytest.mark.parametrize("place", ["x", "y", "z"])
def test_the_model_changes_least_often_wherever_it_stands(place: str) -> None:
    others = [name for name in "xyz" if name != place]
    grid = Grid(
        **{place: axis("model", "starter:a, starter:b"), others[0]: axis("steps", "1-3"),
           others[1]: axis("seed", "1-2")}
    )  # fmt: skip
    models = [cell.model for cell in grid.cells(PARAMS)]
    assert models == ["starter:a"] * 6 + ["starter:b"] * 6


def test_words_of_the_prompt_and_weights_of_adapters_change_in_place() -> None:
    params = {**PARAMS, "adapters": [{"ref": "job:a", "weight": 1.0}]}
    cells = Grid(axis("prompt_replace", "red, blue"), axis("adapter_weight", "0, 0.5")).cells(
        params
    )
    assert [cell.change["prompt"] for cell in cells] == [
        "a red fox", "a blue fox", "a red fox", "a blue fox"
    ]  # fmt: skip
    assert cells[-1].change["adapters"] == [{"ref": "job:a", "weight": 0.5}]
    with pytest.raises(Refused, match="'green' is not in the prompt"):
        Grid(axis("prompt_replace", "green, blue")).cells(params)
    with pytest.raises(Refused, match="no adapter"):
        Grid(axis("adapter_weight", "0, 1")).cells(PARAMS)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (Grid(axis("steps", "1"), axis("steps", "2")), "same setting"),
        (Grid(axis("seed", "1-30"), axis("steps", "1-30")), "900 pictures"),
        (Grid(axis("steps", "1, 900")), "Steps is 900"),
        (Grid(axis("width", "63")), "width is 63 pixels"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused_before_it_is_queued(grid: Grid, said: str) -> None:
    with pytest.raises(Refused, match=said):
        grid.cells(PARAMS)


def test_labels_say_setting_and_value_and_models_their_titles() -> None:
    grid = Grid(
        axis("guidance", "7, 7.5"), axis("model", "starter:a", {"starter:a": "The first"}), None
    )
    assert grid.labels() == (
        ("Guidance scale: 7", "Guidance scale: 7.5"), ("The first",), ("",)
    )  # fmt: skip


def test_a_grid_survives_json() -> None:
    grid = Grid(axis("steps", "1, 2"), None, axis("model", "starter:a", {"starter:a": "A"}))
    assert grid_of(json.loads(json.dumps(asdict(grid)))) == grid
    assert Axis("steps", (1,)).labels == ("Steps: 1",)
