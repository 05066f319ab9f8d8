"""Token rows: compact, in order, and split so that nothing that was learned validates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.events import Progress
from backends.finetune import sft_rows
from backends.finetune.data import Example, open_dataset
from backends.finetune.sft_rows import IGNORED, Rows
from backends.runtime.job_spec import digest


class Letters:
    """Each character is a token; of an answer all but the first are learned."""

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        ids = [ord(c) for text in example.said() for c in text]
        return ids, [IGNORED, *ids[1:]]


def collected(path: Path, compare: bool = False, length: int = 200) -> tuple[Rows, list[Progress]]:
    told: list[Progress] = []
    reading = sft_rows.collect(open_dataset(path), Letters(), length, lambda: False, compare)  # type: ignore[arg-type]
    while True:
        try:
            told.append(next(reading))
        except StopIteration as end:
            return end.value, told


def fill(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def texts_of(dataset: Any) -> list[str]:
    return ["".join(map(chr, ids)) for ids in dataset["input_ids"]]


def test_rows_come_out_as_they_went_in(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.jsonl", ["Hello", "x" * 300, "Grüße 你好", "y"])
    rows, _ = collected(path)
    learn, measure = rows.split(0.0, 3)
    assert texts_of(learn) == ["Hello", "x" * 200, "Grüße 你好"] and len(measure) == 0
    assert learn["labels"][0] == [IGNORED, *map(ord, "ello")]
    assert (rows.cut, rows.untrained) == (1, 1)
    assert len(rows.ids) == len(rows.learned) == 5 + 200 + 8


def test_without_likes_the_split_is_the_first_of_the_shuffled(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.jsonl", [f"row {n}" for n in range(40)])
    rows, _ = collected(path, compare=True)
    learn, measure = rows.split(0.25, 11)
    order = list(range(40))
    random.Random(11).shuffle(order)
    assert texts_of(measure) == [f"row {n}" for n in sorted(order[:10])]
    assert texts_of(learn) == [f"row {n}" for n in sorted(order[10:])]


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_are_alike_stay_on_one_side(tmp_path: Path, seed: int) -> None:
    dice = random.Random(1)
    long = [" ".join(f"{dice.random():.9f}" for _ in range(40)) for _ in range(12)]
    texts = [f"row {n}" for n in range(12)] * 3 + long + [f"{text} indeed" for text in long]
    rows, _ = collected(fill(tmp_path / "a.jsonl", texts), compare=True, length=1000)
    learn, measure = rows.split(0.3, seed)
    known, asked = ({t.removesuffix(" indeed") for t in texts_of(d)} for d in (learn, measure))
    assert asked and not known & asked
    assert len(learn) + len(measure) == len(texts) and len(measure) <= round(0.3 * len(texts))


def test_too_few_or_too_alike_rows_are_refused(tmp_path: Path) -> None:
    rows, _ = collected(fill(tmp_path / "a.jsonl", ["the same"] * 20), compare=True)
    with pytest.raises(Refused, match="too alike"):
        rows.split(0.2, 1)
    rows, _ = collected(fill(tmp_path / "b.jsonl", ["one", "two"]), compare=True)
    with pytest.raises(Refused, match="too few"):
        rows.split(0.1, 1)


def test_reading_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft_rows, "TELL_SECONDS", 0.0)
    path = fill(tmp_path / "a.jsonl", [f"row {n}" for n in range(500)])
    _, told = collected(path)
    shares = [progress.step for progress in told]
    assert shares == sorted(shares) and 0.5 < shares[-1] <= 1.0 and "500 rows" in told[-1].note


def test_a_set_to_validate_with_is_measured_whole_and_nothing_of_it_is_learned(
    tmp_path: Path,
) -> None:
    rows, _ = collected(fill(tmp_path / "a.jsonl", [f"row {n}" for n in range(12)]), compare=True)
    path = fill(tmp_path / "b.jsonl", ["row 3", "another", "row 7", "a third"])
    rows.aside, _ = collected(path, compare=True)
    learn, measure = rows.split(0.5, 3)
    assert texts_of(measure) == ["row 3", "another", "row 7", "a third"]
    assert texts_of(learn) == [f"row {n}" for n in range(12) if n not in (3, 7)]
    assert "2 rows are in the validation set, too: not learned." in rows.notices(200)
    rows.aside, _ = collected(tmp_path / "a.jsonl", compare=True)
    with pytest.raises(Refused, match="Every row is in the set to validate with"):
        rows.split(0.0, 3)


def test_a_set_to_validate_with_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path / "b.jsonl", ["one", "two"])
    said = {"path": str(path), "sha256": digest(str(path)), "steps": [{"do": "take", "count": 1}]}
    found = sft_rows.validation_set(said)
    assert found and [e.text for e in found.examples()] == ["one"]
    assert sft_rows.validation_set({}) is None
    fill(path, ["one", "three"])
    with pytest.raises(Refused, match="gone or has changed"):
        sft_rows.validation_set(said)
    path.unlink()
    with pytest.raises(Refused, match="gone or has changed"):
        sft_rows.validation_set(said)
