"""A job's card: what it says of a real job, and that it runs again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.runtime import run_card
from backends.runtime.disk import write_json
from backends.runtime.job_spec import understand
from backends.runtime.jobs import Jobs
from tests.backends.made_jobs import BACKENDS, plant, run, spec


@pytest.fixture
def jobs(home: Path) -> Iterator[Jobs]:
    before = dict(BACKENDS)
    plant()
    yield Jobs(home)
    BACKENDS.clear()
    BACKENDS.update(before)


def test_a_card_says_what_was_done_and_runs_again(jobs: Jobs, tmp_path: Path) -> None:
    data = tmp_path / "daten ```.json"
    data.write_text("[]")
    asked = spec(dataset=str(data), name="Ein <b>Versuch</b> | *neu*", params={"max_steps": 30})
    id = jobs.create(asked, key="click")
    code, said = run(jobs.path(id), tmp_path)
    assert code == 0, said
    card = jobs.run_card(id)
    assert card.startswith("# Ein \\<b\\>Versuch\\</b\\> \\| \\*neu\\*\n")
    assert hashlib.sha256(b"[]").hexdigest() in card and "daten ```.json" in card
    assert "| Status | finished, 30 of 30 steps |" in card
    assert "| Final loss | 0.0333 |" in card and "| Energy | not known |" in card
    assert "| torch | " in card and "| trl | " in card and "| werkbank | " in card
    curve = card.partition("## Curve")[2].partition("## ")[0]
    assert curve.count("\n| ") == 13 and "\n| 1 | 1 |" in curve and "\n| 30 | 0.03333 |" in curve
    assert "- step 1: I am 1" in card and "- step 30: I am 465" in card
    again = run_card.spec_of(card)
    assert again == asked
    assert understand(again, tmp_path).params.max_steps == 30
    assert jobs.create(again) != id


def test_a_job_that_never_ran_has_a_card_too(jobs: Jobs) -> None:
    card = jobs.run_card(jobs.create(spec()))
    assert "| Status | new, 0 of 0 steps |" in card and "## Curve" not in card
    assert run_card.spec_of(card) == spec()


def test_energy_time_and_the_later_line_of_a_step(jobs: Jobs) -> None:
    id = jobs.create(spec())
    folder = jobs.path(id)
    write_json(folder / "state.json", {"step": 2, "total": 2, "worked": 3725, "energy_wh": 1.25})
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None, "validation_loss": 4.0},
             {"step": 1, "loss": 2.0}]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = jobs.run_card(id)
    assert "| Time | 1:02:05 h |" in card and "| Energy | 1.250 Wh |" in card
    assert "| 1 | 2 |  |" in card and "| 2 |  | 4 |" in card


@pytest.mark.parametrize("text", ["", "# x", "## Run it again\n\n```json\n[1]\n```\n"])
def test_what_is_no_card_is_refused_in_sentences(text: str) -> None:
    with pytest.raises(ValueError, match="no run card"):
        run_card.spec_of(text)
