"""The table, the numbers in it, and what a run that goes wrong says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks import run, stream, tokens
from benchmarks.machine import processor
from benchmarks.measure import (
    Bar,
    CannotRun,
    Others,
    Plan,
    Row,
    interleaved,
    median_ratio,
    quarters,
    slope,
    spread,
    wait_for,
)
from benchmarks.tokens import Answer

FAST = Bar("page answers", 1.3)
MANY = Bar("tokens", 0.95, at_least=True)


def group(measure: Any, *bars: Bar) -> ModuleType:
    made = ModuleType("benchmarks.made_up")
    made.BARS, made.measure = bars, measure  # type: ignore[attr-defined]
    return made


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path)


# Bars and rows


@pytest.mark.parametrize(
    ("bar", "figure", "holds"),
    [(FAST, 1.3, True), (FAST, 1.3001, False), (MANY, 0.95, True), (MANY, 0.9499, False)],
)
def test_a_bar_judges_the_figure_before_it_is_rounded(bar: Bar, figure: float, holds: bool) -> None:
    assert bar.row(figure).holds is holds


def test_a_row_shows_figure_bar_and_unit() -> None:
    row = Bar("memory", 350, " MB", digits=0).row(211.6, "two minutes", minutes=2)
    assert (row.figure, row.bar, row.note) == ("212 MB", "<= 350 MB", "two minutes")
    assert row.values == {"figure": 211.6, "minutes": 2}
    assert (MANY.text, MANY.missing("No model.").holds) == (">= 0.95", None)


def test_the_table_has_a_line_for_every_row_and_its_note_below() -> None:
    rows = [FAST.row(1.12, "ours 3.4 s, bare 3.0 s"), MANY.row(0.9), FAST.missing("No browser.")]
    assert run.table(rows).splitlines() == [
        "what          figure  bar      holds",
        "------------  ------  -------  ------------",
        "page answers  1.12    <= 1.3   yes",
        "    ours 3.4 s, bare 3.0 s",
        "tokens        0.90    >= 0.95  NO",
        "page answers  -       <= 1.3   not measured",
        "    No browser.",
    ]
    assert run.verdict(rows) == "1 hold, 1 do not, 1 could not be measured here."


# Numbers


def test_the_ratio_is_the_median_over_the_pairs_not_of_the_medians() -> None:
    assert median_ratio([(1, 2), (9, 3), (4, 4)]) == 1.0
    assert spread([3.0, 1.0, 2.0], " s") == "2.00 s (1.00 to 3.00)"
    assert spread([3.0], digits=1) == "3.0"


def test_pairs_change_their_order_each_time() -> None:
    called: list[str] = []

    def call(name: str) -> str:
        called.append(name)
        return name

    pairs = list(interleaved(lambda: call("a"), lambda: call("b"), 3))
    assert pairs == [("a", "b")] * 3
    assert "".join(called) == "abbaab"


def test_quarters_are_of_the_time_and_read_between_samples() -> None:
    assert quarters([10, 11, 18], [0, 4, 4]) == [4, 0, 0, 0]
    assert quarters([0, 8], [0, 16]) == [4, 4, 4, 4]
    assert quarters([0, 1, 2, 3, 3, 4], [0, 1, 2, 3, 3, 13]) == [1, 1, 1, 10]
    with pytest.raises(ValueError, match="too few samples"):
        quarters([1], [1])


def test_a_slope_is_growth_for_each_unit() -> None:
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2)
    assert slope([1], [5]) == 0


def test_waiting_ends_with_a_sentence_that_names_what_did_not_happen() -> None:
    assert wait_for(lambda: "there", 1, "It") == "there"
    with pytest.raises(CannotRun, match="The answer did not happen within 0 s"):
        wait_for(lambda: None, 0.02, "The answer", poll=0.01)


def test_what_this_run_computes_is_not_counted_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds of the clock, of all processors at work, of this process and children waited for.
    moments = iter([(0.0, 100.0, 7.0), (10.0, 116.0, 11.0), (10.0, 116.0, 11.0), (20.0, 111, 27)])
    monkeypatch.setattr(Others, "_now", staticmethod(lambda: next(moments)))
    monkeypatch.setattr("benchmarks.measure.psutil.cpu_count", lambda: 2)
    others = Others()
    assert others.percent() == 60  # 12 of 20 core seconds
    others._latest = {(5, 0.0): 4.0, (6, 0.0): 4.0}  # nobody waits for these two
    assert others.percent() == 40
    assert others.percent() == 0  # a child that ended brings more than the clock has seen


def test_a_grandchild_that_lost_its_parent_counts_as_ours() -> None:
    burn = "import time\nwhile time.process_time() < 0.8: pass\ntime.sleep(20)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    with Others() as others:
        subprocess.run([sys.executable, "-c", parent + "; time.sleep(0.8)"], check=True)
        deadline = time.monotonic() + 20
        while sum(others._latest.values()) < 0.6 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert sum(others._latest.values()) > 0.6


def test_a_noisy_machine_is_told_and_a_quiet_one_only_kept() -> None:
    quiet, noisy = (run.with_noise(FAST.row(1.0, "5 pairs"), p) for p in (3.04, 40.0))
    assert quiet.note == "5 pairs" and quiet.values["others_percent"] == 3.0
    assert noisy.note == ("5 pairs; NOT QUIET: other programs took 40 % of the machine meanwhile")


# The rows that compare


def answer(tokens: int = 100, decode: float = 1.0, text: str = "same") -> Answer:
    return Answer(tokens, 0.1, decode, text)


def test_speed_leaves_the_first_token_out() -> None:
    assert answer(101, 2.0).speed == 50


def test_different_work_is_no_comparison() -> None:
    row = tokens.compared(MANY, [(answer(decode=2.0), answer(decode=1.0))])
    assert row.holds is False and row.figure == "0.50" and "DIFFER" not in row.note
    with pytest.raises(CannotRun, match=r"different numbers of tokens: \[99, 100\]"):
        tokens.compared(MANY, [(answer(99), answer(100))])
    assert "the texts DIFFER" in tokens.compared(MANY, [(answer(text="a"), answer())]).note


def test_the_speed_is_read_from_the_line_below_an_answer() -> None:
    read = tokens.read_usage("400 tokens · 80.0 tokens/s · first after 0.25 s · prompt 29")
    assert (read.tokens, read.first, read.speed) == (400, 0.25, pytest.approx(80))
    with pytest.raises(CannotRun, match="has no speed"):
        tokens.read_usage("stopped")


def test_the_long_answer_is_judged_by_its_last_quarter_against_its_first() -> None:
    row = stream.judged(FAST, [[0.004, 0.004, 0.004, 0.006], [0.004, 0.005, 0.006, 0.004]], "ms")
    assert row.figure == "1.25" and row.holds
    assert row.note.startswith("4.00, 4.50, 5.00, 5.00 ms in the four quarters")


# A run


def test_a_group_that_cannot_run_says_why_in_each_row_it_did_not_get_to(plan: Plan) -> None:
    def measure(plan: Plan) -> Iterator[Row]:
        yield FAST.row(1.0)
        raise CannotRun("There is no Chromium here.")

    first, second = run.measured(group(measure, FAST, MANY), plan)
    assert (first.what, first.holds) == ("page answers", True)
    assert (second.what, second.holds) == ("tokens", None)
    assert second.note.startswith("There is no Chromium here.")


def test_a_group_that_breaks_does_not_hold(plan: Plan) -> None:
    def measure(plan: Plan) -> Iterator[Row]:
        yield from ()
        raise KeyError("usage")

    [row] = run.measured(group(measure, MANY), plan)
    assert row.holds is False
    assert row.note.startswith("The measurement broke (KeyError: 'usage').")


@pytest.mark.parametrize(("figure", "code"), [(1.0, 0), (2.0, 1)])
def test_a_run_prints_the_table_keeps_the_record_and_says_whether_all_hold(
    figure: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(plan: Plan) -> Iterator[Row]:
        assert plan.minutes == 60 and plan.home("a").is_dir()
        yield FAST.row(figure, pairs=[1, 2])
        raise CannotRun("No model is here.")

    monkeypatch.setenv("WERKBANK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "TASKS", {"chat": ("made_up",)})
    made = SimpleNamespace(import_module=lambda name: group(measure, FAST, MANY))
    monkeypatch.setattr(run, "importlib", made)
    for _ in range(2):
        assert run.main(["chat", "--hour", "--json", str(tmp_path / "one.json")]) == code
    assert "page answers" in capsys.readouterr().out
    kept = (tmp_path / "home" / "benchmarks.jsonl").read_text("utf-8").splitlines()
    last = json.loads(kept[-1])
    noise = {"others_percent": last["rows"][0]["values"]["others_percent"]}
    assert len(kept) == 2 and last == json.loads((tmp_path / "one.json").read_text("utf-8"))
    assert [row["holds"] for row in last["rows"]] == [figure <= 1.3, None]
    assert last["rows"][0]["values"] == {"figure": figure, "pairs": [1, 2]} | noise
    assert last["machine"]["cores"] > 0 and last["asked"] == {"task": "chat", "hour": True}


@pytest.mark.parametrize("task", ["speech"])
def test_other_tasks_are_said_not_to_be_measured(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([task]) == 2
    assert (
        capsys.readouterr().out == f"This version measures chat and train and image, not {task}.\n"
    )


def test_every_group_has_a_file_with_bars_of_different_names() -> None:
    names = []
    for name in run.GROUPS:
        module = run.importlib.import_module(f"benchmarks.{name}")
        assert callable(module.measure)
        names += [bar.what for bar in module.BARS]
    assert len(names) == len(set(names)) and len(names) >= len(run.GROUPS)


def test_the_processor_is_named_where_linux_tells_it(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fast One 3000\n", "utf-8")
    assert processor(file) == "Fast One 3000"
    assert processor(tmp_path / "missing")
