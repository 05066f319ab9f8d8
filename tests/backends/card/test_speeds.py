"""A model's own best speed, and the speed of a run under way."""

import pytest

from backends.card.measured import Measured
from backends.card.speeds import WINDOW, Pace, Speeds


@pytest.fixture
def measured(tmp_path):
    return Measured(tmp_path / "measured.jsonl")


def test_the_best_is_kept_for_the_next_start_and_each_model_has_its_own(measured):
    speeds = Speeds(measured)
    assert [speeds.share("a", s) for s in (50.0, 100.0, 10.0)] == [1.0, 1.0, 0.1]
    assert speeds.share("b", 10.0) == 1.0
    assert Speeds(measured).share("a", 25.0) == 0.25


def test_a_best_that_creeps_up_writes_few_lines(measured):
    speeds = Speeds(measured)
    for tenth in range(100, 200):
        speeds.share("a", tenth / 10)
    assert len(list(measured.records(kind="speed"))) <= 8


def test_lines_that_make_no_sense_are_no_best(measured):
    measured.append(kind="speed", key="a", per_second="fast")
    measured.append(kind="speed")
    assert Speeds(measured).share("a", 1.0) == 1.0


def test_a_pace_says_nothing_at_first_and_then_forgets_what_is_long_ago():
    pace = Pace()
    assert [pace.add(1, 0.1 * n) for n in range(20)] == [None] * 20
    assert pace.add(1, 2.0) == pytest.approx(10.0)
    slow = [pace.add(1, 2.0 + n) for n in range(1, int(WINDOW) + 2)]
    assert slow == sorted(slow, reverse=True)
    assert slow[-1] == pytest.approx(1.0)
