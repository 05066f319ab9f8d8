"""Watt-hours: the arithmetic by itself, then in an event loop against a scripted card."""

import asyncio
import threading
import time

import pytest

from backends.card import energy
from backends.card.energy import Energy, Tally, in_words
from backends.card.nvml import Power


def counted(at, joules):
    return Power(at, joules, 100.0)


def test_the_counter_of_the_driver_is_exact():
    tally = Tally()
    tally.begin("a", counted(0, 5_000.0))
    assert tally.end("a", counted(900, 5_720.0)) == pytest.approx(0.2)
    assert not tally.running


def test_two_at_once_share_what_the_card_uses():
    tally = Tally()
    tally.begin("a", counted(0, 0.0))
    tally.begin("b", counted(1, 3600.0))  # one watt-hour for a alone
    assert tally.end("a", counted(2, 10_800.0)) == pytest.approx(1 + 1)
    assert tally.end("b", counted(3, 14_400.0)) == pytest.approx(1 + 1)


def test_without_a_counter_watts_are_integrated():
    tally = Tally()
    tally.begin("a", Power(10.0, None, 100.0))
    tally.look(Power(11.0, None, 200.0))
    assert tally.end("a", Power(12.0, None, 200.0)) == pytest.approx((150 + 200) / 3600)


def test_a_counter_that_begins_again_makes_it_unknown_for_those_that_ran_and_for_no_other():
    tally = Tally()
    tally.begin("a", counted(0, 9_000.0))
    tally.look(counted(1, 10.0))
    tally.begin("b", counted(2, 20.0))
    assert tally.end("a", counted(3, 30.0)) is None
    assert tally.end("b", counted(4, 3630.0)) == pytest.approx((10 / 2 + 3600) / 3600)


@pytest.mark.parametrize(
    "then",
    [Power(60.0, None, 100.0), Power(1.0), Power(-1.0, None, 100.0)],
    ids=["a gap", "a card that is lost", "a clock that went back"],
)
def test_what_is_not_known_between_two_watts_is_not_invented(then):
    tally = Tally()
    tally.begin("a", Power(0.0, None, 100.0))
    tally.look(then)
    assert tally.end("a", Power(then.at + 1, None, 100.0)) is None


def test_a_card_that_tells_nothing_at_the_begin_is_unknown_for_the_run():
    tally = Tally()
    tally.begin("a", Power(0.0))
    assert tally.end("a", Power(1.0)) is None
    assert tally.end("never begun", Power(1.0)) is None


class Card:
    """Answers 3600 J more at each question; or watts alone."""

    def __init__(self, counter=True):
        self.counter, self.asked, self.most, self.now = counter, 0, 0, 0
        self.hang = threading.Event()
        self.hang.set()

    def __call__(self, device):
        assert threading.current_thread() is not threading.main_thread()
        self.now += 1
        self.most = max(self.most, self.now)
        self.asked += 1
        self.hang.wait(5)
        self.now -= 1
        joules = 3600.0 * self.asked if self.counter else None
        return Power(time.monotonic(), joules, 360.0)


def test_a_run_is_measured_without_asking_more_than_twice():
    card = Card()

    async def run():
        meter = Energy(card)
        meter.begin("a", "cuda:0")
        return await meter.end("a")

    assert asyncio.run(run()) == pytest.approx(1.0)
    assert card.asked == 2


def test_without_a_counter_the_card_is_asked_while_something_runs_and_no_longer():
    card = Card(counter=False)

    async def run():
        meter = Energy(card, pace=0.02)
        meter.begin("a", "cuda:0")
        await asyncio.sleep(0.5)
        wh = await meter.end("a")
        await asyncio.sleep(0.05)
        asked = card.asked
        await asyncio.sleep(0.1)
        assert card.asked == asked > 5
        assert not meter._watching
        return wh

    assert asyncio.run(run()) == pytest.approx(360 * 0.5 / 3600, rel=0.5)


def test_on_a_cpu_nothing_is_asked_and_nothing_said():
    card = Card()

    async def run():
        meter = Energy(card)
        meter.begin("a", "cpu")
        return await meter.end("a"), await meter.end("never begun")

    assert asyncio.run(run()) == (None, None)
    assert card.asked == 0


def test_a_driver_that_hangs_holds_up_no_answer_and_one_thread_at_most(monkeypatch):
    monkeypatch.setattr(energy, "PATIENCE", 0.05)
    card = Card()
    card.hang.clear()

    async def run():
        meter = Energy(card)
        began = time.monotonic()
        for name in "abc":
            meter.begin(name, "cuda:0")
            assert await meter.end(name) is None
        took = time.monotonic() - began
        card.hang.set()
        await asyncio.sleep(0.2)
        assert not meter._tallies["cuda:0"].running  # late, but they left
        meter.begin("d", "cuda:0")
        return took, await meter.end("d")

    took, later = asyncio.run(run())
    assert took < 1.0
    assert card.most == 1
    assert later == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("watt_hours", "words"),
    [(0.0, "< 0.001 Wh"), (0.0042, "0.004 Wh"), (0.0213, "0.02 Wh"), (0.52, "0.52 Wh"),
     (3.14, "3.1 Wh"), (123.4, "123 Wh")],
)  # fmt: skip
def test_watt_hours_are_said_shortly(watt_hours, words):
    assert in_words(watt_hours) == words
