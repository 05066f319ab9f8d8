"""Each known form is told by its rows, with the evidence, and comes into normal form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.finetune.data import Mapping, open_dataset
from backends.finetune.data.recognise import recognise

REAL = Path("/work/shared/data/datasets")
USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}
SAW = {"from": "observation", "value": '{"b": 2}'}
TOOLS = json.dumps([{"name": "f", "description": "d", "parameters": {}}])
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
}
TALK = [USER, BOT]
BAD = {"role": "assistant", "content": "No"}

# title, row, its normal form as it is written
FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, {"messages": TALK}),
    ("Alpaca", {"instruction": "Add", "input": "1 2", "output": "3"},
     {"messages": [{"role": "user", "content": "Add\n1 2"}, {**BOT, "content": "3"}]}),
    ("Alpaca", {"instruction": "Hi", "output": "Hello", "system": "Be kind.",
                "history": [["a", "b"]]},
     {"messages": [SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                   *TALK]}),
    ("ShareGPT", {"conversations": [HUMAN, GPT]}, {"messages": TALK}),
    ("ShareGPT", {"conversations": [HUMAN, CALL, SAW, GPT], "tools": TOOLS},
     {"messages": [USER, CALLED, {"role": "tool", "content": '{"b": 2}'}, BOT],
      "tools": [{"type": "function",
                 "function": {"name": "f", "description": "d", "parameters": {}}}]}),
    ("Messages", {"messages": TALK}, {"messages": TALK}),
    ("Messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, BOT]},
     {"messages": TALK}),
    ("Messages", {"messages": [USER, {**BOT, "weight": 0}, USER, BOT]},
     {"messages": [USER, {**BOT, "train": False}, USER, BOT]}),
    ("Messages", {"messages": json.dumps(TALK)}, {"messages": TALK}),
    ("Question and answer", {"prompt": "Hi", "completion": "Hello"}, {"messages": TALK}),
    ("Question and answer", {"prompt": [USER], "completion": [BOT]}, {"messages": TALK}),
    ("Question and answer", {"Question": "Hi", "Answer": "Hello"}, {"messages": TALK}),
    ("Text", {"text": "Long ago."}, {"text": "Long ago."}),
    ("Text", {"story": "Long ago."}, {"text": "Long ago."}),
    ("Preferences (texts)", {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (conversations)", {"chosen": TALK, "rejected": [USER, BAD]},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (conversations)", {"prompt": "Hi", "chosen": TALK, "rejected": [USER, BAD]},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (ShareGPT style)",
     {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No"}},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (texts)", {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
                             "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (conversations)", {"prompt": "Hi", "messages": TALK, "chosen": TALK,
                                     "rejected": [USER, BAD]},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (conversations)", {"messages": TALK, "chosen": [BOT], "rejected": [BAD]},
     {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Preferences (conversations)", {"system": "Be kind.", "chosen": [SYSTEM, *TALK],
                                     "rejected": [SYSTEM, USER, BAD]},
     {"prompt": [SYSTEM, USER], "chosen": [BOT], "rejected": [BAD]}),
    ("Alpaca", {"instruction": "Add", "context": "1 2", "response": "Hello", "category": "x"},
     {"messages": [{**USER, "content": "Add\n1 2"}, BOT]}),
    ("KTO (label)", {"prompt": "Hi", "completion": "Hello", "label": True},
     {"prompt": [USER], "completion": [BOT], "label": True}),
    ("KTO (label)", {"messages": TALK, "label": 0},
     {"prompt": [USER], "completion": [BOT], "label": False}),
]  # fmt: skip


@pytest.mark.parametrize(("title", "row", "normal"), FORMS)
def test_known_forms_come_into_normal_form_and_can_be_read_again(
    tmp_path: Path, title: str, row: dict[str, Any], normal: dict[str, Any]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    dataset = open_dataset(path)
    assert dataset.recognised.title == title
    (example,) = dataset.examples()
    assert example.as_row() == normal
    assert dataset.examine().kept == 1
    again = tmp_path / "b.jsonl"
    dataset.write(again)
    (second,) = open_dataset(again).examples()
    assert second == example


def test_it_is_decided_by_most_rows_and_the_evidence_is_told() -> None:
    rows = [{"text": "a"}, *[{"instruction": "a", "output": "b", "id": 1}] * 8, {"foo": 1}]
    found = recognise(rows)
    assert (found.title, found.agree, found.asked) == ("Alpaca", 8, 10)
    assert found.evidence == "8 of 10 rows have instruction and output."
    assert found.unused == ("text", "id", "foo")


def test_columns_that_only_some_rows_have_are_mapped_too() -> None:
    rows = [{"messages": TALK}] * 5 + [{"messages": TALK, "tools": TOOLS}] * 2
    assert recognise(rows).mapping == Mapping("chat", messages="messages", tools="tools")


def test_unknown_columns_have_to_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Wort,Erklärung\nHaus,Ein Gebäude\nBaum,Eine Pflanze\n")
    dataset = open_dataset(path)
    assert dataset.recognised.title == "Columns" and not dataset.recognised.sure
    assert dataset.recognised.columns == ("Wort", "Erklärung")
    with pytest.raises(Refused, match="Question, Answer"):
        dataset.examine()
    mapped = dataset.map(Mapping("instruction", prompt="Wort", answer="Erklärung"))
    assert mapped.examine().kept == 2
    assert mapped.undo() is dataset


@pytest.mark.parametrize(
    ("name", "title", "rows"),
    [
        ("alpaca_en_demo.json", "Alpaca", 999),
        ("dpo_en_demo.json", "Preferences (ShareGPT style)", 299),
        ("glaive_toolcall_en_demo.json", "ShareGPT", 300),
        ("identity.json", "Alpaca", 91),
    ],
)
def test_real_sets(name: str, title: str, rows: int) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not there")
    dataset = open_dataset(REAL / name)
    report = dataset.examine()
    assert dataset.recognised.title == title
    assert (report.rows, report.kept, report.left_out) == (rows, rows, 0)
    raw = json.loads((REAL / name).read_text())
    whole = [json.dumps(row, sort_keys=True) for row in raw]
    assert len(report.duplicates) >= len(whole) - len(set(whole))
