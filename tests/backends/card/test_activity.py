"""The bands of what ran: pure, with a clock of the test's own."""

import pytest

from backends.card.activity import JOINED, KEPT, MOST, Activity


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def activity(clock):
    return Activity(clock)


def seen(activity):
    return [(s.kind, s.begin - 1000, s.end and s.end - 1000) for s in activity.spans()]


def test_a_load_and_then_work_are_two_spans(activity, clock):
    activity.begin("m-1", "load", "SmolLM2", "cuda:0")
    clock.now += 3
    activity.begin("m-1", "chat", "SmolLM2", "cuda:0")
    clock.now += 2
    assert seen(activity) == [("load", 0, 3), ("chat", 3, None)]
    activity.end("m-1")
    assert seen(activity) == [("load", 0, 3), ("chat", 3, 5)]


def test_the_same_news_twice_changes_nothing(activity, clock):
    activity.begin("m-1", "chat", "SmolLM2", "cpu")
    clock.now += 2
    activity.begin("m-1", "chat", "SmolLM2", "cpu")
    activity.end("m-1")
    activity.end("m-1")
    activity.end("nobody")
    assert seen(activity) == [("chat", 0, 2)]


def test_runs_that_follow_each_other_closely_are_one_span_with_the_energy_of_both(activity, clock):
    for _ in range(2):
        activity.begin("m-1", "chat", "SmolLM2", "cuda:0")
        clock.now += 5
        activity.add_run("m-1", 0.25)
        activity.end("m-1")
        clock.now += JOINED / 2
    [span] = activity.spans()
    assert (span.end - span.begin, span.runs, span.energy_wh) == (10.5, 2, 0.5)


def test_energy_that_is_not_known_stays_unknown(activity, clock):
    activity.begin("m-1", "chat", "SmolLM2", "cpu")
    clock.now += 1
    activity.end("m-1")
    activity.add_run("m-1", None)  # the end of a run may be told after its span's
    activity.add_run("nobody", 1.0)
    [span] = activity.spans()
    assert (span.runs, span.energy_wh) == (1, None)


def test_what_took_no_time_is_no_work(activity):
    activity.begin("m-1", "chat", "SmolLM2", "cpu")
    activity.end("m-1")
    assert activity.spans() == []


def test_ten_minutes_are_kept_and_what_still_runs_however_long(activity, clock):
    activity.begin("job", "finetune", "LoRA", "cuda:0")
    activity.begin("m-1", "chat", "SmolLM2", "cuda:0")
    clock.now += 1
    activity.end("m-1")
    clock.now += KEPT + 1
    assert [s.id for s in activity.spans()] == ["job"]


def test_a_busy_api_makes_no_endless_list(activity, clock):
    for number in range(3 * MOST):
        activity.begin(f"m-{number % 2}", "chat", "SmolLM2", "cpu")
        clock.now += 0.1
        activity.end(f"m-{number % 2}")
        clock.now += 1.1
    assert len(activity.spans()) <= MOST + 1
