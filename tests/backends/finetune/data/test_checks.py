"""What is wrong with rows is found in every one of them, counted, and told with its place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from backends.finetune.data import CheckOptions, Report, open_dataset
from backends.finetune.data.checks import Finding, examine, normal
from backends.finetune.data.forms import Mapping
from backends.finetune.data.rows import KINDS, Row

WORDS = "river stone light engine garden window copper morning paper silver bridge music".split()


def say(*turns: str, **more: Any) -> dict[str, Any]:
    """ "u:Hi" is the user's, "a:…" the assistant's, "s:", "t:"."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return {"messages": [{"role": roles[t[0]], "content": t[2:]} for t in turns], **more}


def checked(rows: list[Any], mapping: Mapping | None = None, **options: Any) -> Report:
    mapping = mapping or Mapping("chat", messages="messages")
    numbered = [Row(n, value, None, "", n, "line") for n, value in enumerate(rows, 1)]
    made = ((row, normal(row, mapping)) for row in numbered)
    return examine(made, CheckOptions(**options))


CALL = [{"name": "f", "arguments": {}}]
WRONG = [
    (say("u:Hi"), "no_answer"),
    (say("u:Hi", "a: "), "no_answer"),
    (say("u:Hi", "a:Hello", "u:And?"), "no_answer"),
    (say("a:Hello"), "order"),
    (say("u:Hi", "u:Hi?", "a:Hello"), "order"),
    (say("u:Hi", "a:Hello", "a:Hello?"), "order"),
    (say("u:Hi", "s:Be kind", "a:Hello"), "order"),
    (say("u:Hi", "t:42", "a:Hello"), "order"),
    (say("u:", "a:Hello"), "no_prompt"),
    (say("u: ", "a:\n"), "empty"),
    ({"messages": []}, "empty"),
    ({"messages": None}, "empty"),
    ({"messages": "Hi"}, "shape"),
    ({"messages": ["Hi"]}, "shape"),
    ({"messages": [{"role": "user", "content": 3.5}, {"role": "robot", "content": "a"}]}, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
     "picture"),
    ({"messages": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f("}]},
     "tool_call"),
    ({"messages": [{"role": "user", "content": "a"},
                   {"role": "assistant", "content": "b", "train": False}]}, "masked"),
    ({"other": 1}, "columns"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "kind"), WRONG)
def test_a_row_with_an_error_is_left_out_and_named(row: dict[str, Any], kind: str) -> None:
    good = say("u:Hi", "a:Hello")
    report = checked([good, row, good])
    assert {f.kind for f in report.errors()} == {kind}
    assert report.findings[kind].rows[0][0] == 2
    assert (report.rows, report.kept, report.left_out) == (3, 2, 1)


def test_right_orders_are_kept() -> None:
    rows = [
        say("s:Be kind", "u:Hi", "a:Hello", "u:And?", "a:Yes"),
        {"messages": [{"role": "user", "content": "a"},
                      {"role": "assistant", "content": "", "tool_calls": CALL},
                      {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"},
                      {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"},
                      {"role": "assistant", "content": None, "tool_calls": CALL}]},
    ]  # fmt: skip
    report = checked(rows)
    assert (report.kept, report.errors()) == (3, [])


def test_pairs_and_labels() -> None:
    pair = Mapping("preference", prompt="q", chosen="c", rejected="r")
    rows = [
        {"q": "a", "c": "b", "r": "c"},
        {"q": "a", "c": "b", "r": "b"},
        {"q": "", "c": "b", "r": "c"},
        {"q": "a", "c": "", "r": "c"},
    ]
    found = {f.kind: f.rows[0][0] for f in checked(rows, pair).errors()}
    assert found == {"same_pair": 2, "no_prompt": 3, "no_answer": 4}
    label = Mapping("label", prompt="q", answer="a", label="l")
    rows = [{"q": "a", "a": "b", "l": good} for good in (True, "false", 1, "maybe", None)]
    report = checked(rows, label)
    assert (report.kept, report.findings["label"].count) == (3, 2)


def test_remarks_are_told_and_kept() -> None:
    rows = [
        say("u:Hi", "a:I am {{ name }} of {{author}}."),
        say("u:Hi", "a: Hello"),
        say("u:Hi", "a:Gr\N{REPLACEMENT CHARACTER}n"),
        say("u:Hi", "a:" + "word " * 60_000 + "."),
    ]
    report = checked(rows)
    assert report.kept == 4 and not report.errors()
    assert {f.kind: f.count for f in report.remarks()} == {
        "placeholder": 1, "spaces": 1, "replacement": 1, "long": 1,
    }  # fmt: skip
    assert report.placeholders == {"name": 1, "author": 1}


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) + str(rng.randrange(100)) for _ in range(words))


def test_duplicates_and_near_duplicates_name_the_earlier_row() -> None:
    rng = random.Random(1)
    texts = [text(rng, 60) for _ in range(200)]
    words = texts[7].split()
    words[30] = "changed"
    rows = [{"text": t} for t in [*texts, texts[3], " ".join(words), texts[3].upper() + " "]]
    report = checked(rows, Mapping("text", text="text"))
    assert report.duplicates == {201: 4}
    assert report.near_duplicates == {202: 8, 203: 4}
    assert report.findings["near_duplicate"].rows[0] == (202, "row 202", "As row 8.")


def test_short_rows_are_not_near_each_other() -> None:
    answer = "a:I am a helper that was made to answer what you ask me, one word after the other."
    assert checked([say("u:hi", answer), say("u:ho", answer)]).near_duplicates == {}
    longer = answer + " And to do so with patience, and with care."
    assert checked([say("u:hi", longer), say("u:ho", longer)]).near_duplicates == {2: 1}


def test_who_says_it_and_the_label_tell_rows_apart() -> None:
    label = Mapping("label", prompt="q", answer="a", label="l")
    rows = [{"q": "a", "a": "b", "l": True}, {"q": "a", "a": "b", "l": False}]
    assert checked(rows, label).duplicates == {}


def test_rows_of_the_validation_set_are_found_in_the_training_set() -> None:
    rng = random.Random(2)
    texts = [text(rng, 60) for _ in range(50)]
    mapping = Mapping("text", text="text")
    validation = checked([{"text": texts[5]}, {"text": texts[9] + " more"}], mapping)
    rows = [Row(n, {"text": t}, None, "", n, "line") for n, t in enumerate(texts, 1)]
    made = ((row, normal(row, mapping)) for row in rows)
    report = examine(made, CheckOptions(), validation=validation.prints)
    assert report.leaks == {6: 1, 10: 2}
    assert report.findings["leak"].count == 2


def test_cancel_stops_and_says_that_it_is_not_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps(say("u:Hi", "a:Hello")) + "\n") * 5000)
    seen: list[tuple[float, int]] = []
    report = open_dataset(path).examine(lambda: len(seen) > 3, lambda *at: seen.append(at))
    assert not report.complete and report.rows == report.kept + report.left_out < 1000
    seen.clear()
    assert open_dataset(path).examine(progress=lambda *at: seen.append(at)).complete
    assert seen == sorted(seen) and seen[-1][0] == 1.0


def test_only_the_first_rows_of_a_finding_are_kept_but_all_are_counted() -> None:
    report = checked([say("u:Hi")] * 500)
    assert report.findings["no_answer"].count == 500
    assert len(report.findings["no_answer"].rows) == 100
    assert json.dumps(report.as_dict())


def test_each_kind_makes_a_sentence() -> None:
    for kind, about in KINDS.items():
        assert about.help.endswith("."), kind
        one, many = Finding(kind, 1), Finding(kind, 2)
        assert one.sentence.startswith("1 row ") and many.sentence.startswith("2 rows ")
        if kind not in ("damaged",):
            assert one.sentence.split()[2] != many.sentence.split()[2], kind
