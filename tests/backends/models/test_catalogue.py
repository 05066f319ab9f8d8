"""A row is all that a preset takes, and a wrong row is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import BACKENDS
from backends.base import ModelRef
from backends.models.catalogue import find_row, read_rows

ROW = """
[[model]]
id = "{id}"
title = "A preset"
task = "chat"
ref = "hub:somebody/model@main"
backend = "transformers"
licence = "MIT"
size_mb = 5
"""


def test_every_row_names_a_backend_that_is_there_and_serves_its_task() -> None:
    rows = read_rows()
    for row in rows:
        assert BACKENDS[row.backend].card.task == row.task
        assert row.title and row.licence and row.note.endswith(".")
        assert row.ref.kind != "starter" or row.source is not None
    assert {row.id for row in rows} >= {
        "echo", "smollm2-135m-instruct", "smollm2-135m-instruct-safetensors",
    }  # fmt: skip


def test_starters_carry_the_system_prompt_that_keeps_their_facts_right() -> None:
    row = find_row(ModelRef.parse("starter:smollm2-135m-instruct"))
    assert row is not None and row.system == "You are a helpful assistant."
    assert find_row(ModelRef.parse("starter:nothing")) is None


def test_a_new_row_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(ROW.format(id="mine"))
    (row,) = read_rows(file)
    assert (row.id, str(row.ref), row.system, row.source) == (
        "mine", "hub:somebody/model@main", "", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ROW.format(id="a") * 2, "has the id 'a' twice"),
        (ROW.format(id="a") + 'colour = "red"\n', "unknown key 'colour'"),
        (ROW.format(id="a").replace('task = "chat"', ""), "lacks something"),
    ],
)
def test_a_wrong_row_is_said_by_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_rows(file)
