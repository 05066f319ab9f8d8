"""Steps with undo; a cleaned file that is whole or not there; the source is never changed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from backends.base import Refused
from backends.finetune.data import (
    Drop,
    DropDuplicates,
    DropRows,
    Fill,
    Take,
    Trim,
    open_dataset,
    safe_name,
    step_of,
)
from backends.finetune.data.fixes import step_as_dict

LONG = "The quick brown fox jumps over the lazy dog, again and again, " * 4
ROWS = [
    {"instruction": "Who are you?", "output": "I am {{name}}, made by {{ author }}."},
    {"instruction": "Hi", "output": " Hello "},
    {"instruction": "Hi", "output": "Hello"},
    {"instruction": "", "output": "Nobody asked."},
    {"instruction": LONG, "output": "Yes."},
    {"instruction": LONG, "output": "Yes!"},
    {"instruction": "Hi", "output": "Hello"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def answers(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


def test_a_cleaned_set_is_a_new_file_with_its_hash_and_where_it_came_from(path: Path) -> None:
    before = path.read_bytes()
    dataset = open_dataset(path).fix(Fill({"name": "Ada", "author": "me"}))
    dataset = dataset.fix(Trim(), DropDuplicates(near=True))
    out = path.with_name(safe_name("set.jsonl"))
    written = dataset.write(out)
    assert written is not None and out.name == "set.clean.jsonl"
    assert answers(out) == ["I am Ada, made by me.", "Hello", "Yes."]
    assert (written.rows, written.written) == (7, 3)
    assert written.left_out == {"near_duplicate": 3, "no_prompt": 1}
    assert written.rows == written.written + sum(written.left_out.values())
    manifest = json.loads((path.parent / "set.clean.jsonl.manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() == written.sha256
    assert manifest["source"]["sha256"] == hashlib.sha256(before).hexdigest()
    assert manifest["rows"] == {"in": 7, "written": 3, "left_out": written.left_out}
    assert [step["do"] for step in manifest["steps"]] == ["fill", "trim", "drop_duplicates"]
    assert path.read_bytes() == before
    again = open_dataset(out).examine()
    assert (again.rows, again.kept, again.remarks()) == (3, 3, [])


def test_the_same_steps_give_the_same_bytes(path: Path) -> None:
    dataset = open_dataset(path).fix(Trim(), DropDuplicates())
    one = dataset.write(path.with_name("one.jsonl"))
    two = open_dataset(path).fix(*map(step_of, dataset.as_dict()["steps"]))
    other = two.write(path.with_name("two.jsonl"))
    assert one and other and one.sha256 == other.sha256


def test_the_order_of_steps_counts(path: Path) -> None:
    first = open_dataset(path).fix(DropDuplicates(), Trim()).examine()
    second = open_dataset(path).fix(Trim(), DropDuplicates()).examine()
    assert (first.kept, second.kept) == (5, 4)
    assert first.findings["duplicate"].rows == [(3, "row 3", "As row 2.")]
    assert "duplicate" not in second.findings
    assert second.findings["dropped"].count == 2


def test_undo_takes_back_one_step_after_the_other(path: Path) -> None:
    dataset = open_dataset(path)
    filled = dataset.fix(Fill({"name": "Ada"}))
    taken = filled.fix(Take(2))
    assert len(list(taken.examples())) == 2
    assert taken.undo() == filled and taken.undo().undo() == dataset
    assert dataset.undo() == dataset
    assert "{{name}}" not in filled.preview(1)[0][1].messages[1]["content"]
    assert filled.examine().placeholders == {"author": 1}


def test_each_step_leaves_out_what_it_says(path: Path) -> None:
    dataset = open_dataset(path)
    for step, kept in (
        (Drop("placeholder"), 5),
        (Drop("spaces"), 3),
        (DropRows((1, 2, 99)), 4),
        (Take(3), 3),
        (Take(4), 4),  # of those without an error
        (DropDuplicates(), 5),
    ):
        fixed = dataset.fix(step)
        report = fixed.examine()
        assert (report.kept, report.left_out) == (kept, 7 - kept), step
        assert step_of(json.loads(json.dumps(step_as_dict(step)))) == step
        assert len(list(fixed.made())) == 7
        assert len(fixed.preview(20)) == 7


def test_a_value_with_odd_letters_stays_what_it_is(path: Path) -> None:
    dataset = open_dataset(path).fix(Fill({"name": "\\1 {{author}} \\g<0>", "author": "b"}))
    assert next(dataset.examples()).messages[1]["content"] == (
        "I am \\1 {{author}} \\g<0>, made by b."
    )


@pytest.mark.parametrize(
    "value", [None, {}, {"do": "rm"}, {"do": "take"}, {"do": "take", "count": 0},
              {"do": "drop", "kind": "x"}, {"do": "fill", "values": {}, "more": 1}],
)  # fmt: skip
def test_what_is_no_step_is_a_sentence(value: object) -> None:
    with pytest.raises(ValueError, match=r"\. [A-Z].*\.$"):
        step_of(value)


def test_nothing_is_ever_overwritten(path: Path) -> None:
    with pytest.raises(Refused, match="is there already"):
        open_dataset(path).write(path)
    out = path.with_name("out.jsonl")
    out.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(Refused, match="is there already"):
        open_dataset(path).write(out)
    assert sorted(os.listdir(path.parent)) == ["out.jsonl", "set.jsonl"]


def test_cancelled_or_refused_nothing_is_left_behind(path: Path) -> None:
    out = path.with_name("out.jsonl")
    with path.open("a") as file:
        file.write((json.dumps(ROWS[2]) + "\n") * 500)
    dataset = open_dataset(path)
    assert dataset.write(out, cancelled=lambda: True) is None
    with pytest.raises(Refused, match="No row is left"):
        dataset.fix(DropRows(tuple(range(1, 600)))).write(out)
    with pytest.raises(Refused, match="could not be written"):
        dataset.write(path.parent / "nowhere" / "out.jsonl")
    assert os.listdir(path.parent) == ["set.jsonl"]


def test_a_cancel_works_while_rows_are_compared(path: Path) -> None:
    """That is in a pass of its own, before the first row is written or checked."""
    seen: list[int] = []
    dataset = open_dataset(path).fix(DropDuplicates())

    def cancelled() -> bool:
        seen.append(1)
        return len(seen) > 3

    assert dataset.write(path.with_name("out.jsonl"), cancelled) is None
    assert len(seen) == 4
    seen.clear()
    assert dataset.write(path.with_name("out.jsonl"), lambda: True) is None  # while it is hashed
    seen.clear()
    report = dataset.examine(cancelled)
    assert (report.rows, report.complete) == (0, False)
    assert os.listdir(path.parent) == ["set.jsonl"]


def test_a_full_disk_leaves_nothing_behind(path: Path) -> None:
    with path.open("a") as file:
        file.write((json.dumps(ROWS[2]) + "\n") * 5000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(Refused, match="could not be written"):
            open_dataset(path).write(path.with_name("out.jsonl"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(path.parent) == ["set.jsonl"]


def test_a_source_that_changed_meanwhile_is_refused(path: Path) -> None:
    dataset = open_dataset(path)
    hashed = dataset.sha256()
    with path.open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    assert dataset.changed() and dataset.sha256() != hashed
    with pytest.raises(Refused, match="was changed"):
        dataset.write(path.with_name("out.jsonl"))
    path.unlink()
    with pytest.raises(Refused):
        dataset.sha256()


def test_half_a_character_in_a_tool_does_not_stop_the_writing(path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path.write_text(json.dumps({**row, "tools": [{"name": "\ud83d"}]}) + "\n")
    out = path.with_name("out.jsonl")
    assert open_dataset(path).write(out)
    assert json.loads(out.read_bytes())["tools"][0]["function"]["name"] == "\ud83d"
