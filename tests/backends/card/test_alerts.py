"""Alerts: once, not for ever. Pure, reading by reading."""

import itertools
from dataclasses import replace

import pytest

from backends.card.alerts import Alerts, Speed
from backends.card.nvml import LOST, TROUBLES
from backends.card.reading import Gpu, Host, Reading

GB = 2**30
CALM = Gpu(0, "NVIDIA T4", "u", free_bytes=8 * GB, total_bytes=10 * GB, temperature_c=60,
           slowdown_c=90, throttled=())  # fmt: skip


class Cards:
    """A row of readings, a second apart."""

    def __init__(self):
        self.alerts, self.seconds = Alerts(), itertools.count(100)

    def see(self, *gpus, speeds=None, message="", times=1):
        for _ in range(times):
            at = float(next(self.seconds))
            mode = "cuda" if gpus else "cpu"
            self.alerts.look(Reading(at, mode, message, gpus, Host(1.0, 1, 2, 3)), speeds)
        return [alert.key for alert in self.alerts.shown()]


@pytest.fixture
def cards():
    return Cards()


def filled(share, **more):
    return replace(CALM, free_bytes=round((1 - share) * 10 * GB), **more)


def test_a_calm_card_says_nothing(cards):
    assert cards.see(CALM, times=100) == []


def test_full_memory_is_said_until_it_is_clearly_less(cards):
    assert cards.see(filled(0.949)) == []
    assert cards.see(filled(0.951)) == ["cuda:0/memory"]
    assert "95 % of its memory" in cards.alerts.shown()[0].text
    assert cards.see(filled(0.93)) == ["cuda:0/memory"]
    assert cards.see(filled(0.91)) == []


def test_what_was_dismissed_comes_again_only_after_it_went_away(cards):
    cards.see(filled(0.96))
    cards.alerts.dismiss("cuda:0/memory")
    assert cards.see(filled(0.99), times=600) == []
    assert cards.see(filled(0.93)) == []
    assert cards.see(filled(0.96)) == []
    cards.see(CALM)
    assert cards.see(filled(0.96)) == ["cuda:0/memory"]
    cards.alerts.dismiss("no such key")


def test_an_alert_keeps_its_words_and_its_time_while_it_lasts(cards):
    cards.see(filled(0.96))
    [first] = cards.alerts.shown()
    cards.see(filled(0.99), times=10)
    assert cards.alerts.shown() == [first]


def test_heat_is_said_near_the_threshold_of_this_card(cards):
    assert cards.see(replace(CALM, temperature_c=86)) == []
    assert cards.see(replace(CALM, temperature_c=87)) == ["cuda:0/heat"]
    assert cards.see(replace(CALM, temperature_c=82)) == ["cuda:0/heat"]
    assert cards.see(replace(CALM, temperature_c=81)) == []
    assert cards.see(replace(CALM, temperature_c=99, slowdown_c=None)) == []


def test_a_throttled_card_is_said_after_seconds_of_it(cards):
    hot = replace(CALM, throttled=("power limit", "heat"))
    assert cards.see(hot, times=3) == []
    assert cards.see(hot) == ["cuda:0/throttled"]
    assert "(heat)" in cards.alerts.shown()[0].text
    assert cards.see(CALM, times=10) == ["cuda:0/throttled"]  # it comes and goes
    assert cards.see(CALM) == []
    for _ in range(20):
        assert cards.see(hot) == cards.see(CALM) == []


def test_the_power_limit_under_load_is_no_fault(cards):
    assert cards.see(replace(CALM, throttled=("power limit",)), times=60) == []


def test_slow_and_full_together_mean_system_memory(cards):
    slow, full = {"cuda:0": Speed("SmolLM2", 0.1)}, filled(0.98)
    assert cards.see(CALM, speeds=slow) == []
    assert "cuda:0/spill" not in cards.see(full, speeds={"cuda:0": Speed("SmolLM2", 0.25)})
    assert "cuda:0/spill" in cards.see(full, speeds=slow)
    assert "SmolLM2 runs at 10 %" in cards.alerts.shown()[-1].text
    assert "cuda:0/spill" in cards.see(full)  # nothing runs now: not over for that
    assert "cuda:0/spill" not in cards.see(full, speeds={"cuda:0": Speed("SmolLM2", 0.9)})


def test_a_lost_card_is_said_at_once_and_the_other_goes_on(cards):
    lost, well = Gpu(0, "NVIDIA T4", error=LOST), replace(CALM, index=1)
    cards.see(filled(0.96), well)
    assert cards.see(lost, well) == ["cuda:0/lost"]
    assert cards.alerts.shown()[0].text == f"GPU 0: {LOST}"
    assert cards.see(CALM, well) == []


def test_one_that_does_not_answer_once_is_no_news(cards):
    silent = Gpu(0, "NVIDIA T4", error="This GPU does not answer (error 999). It is asked again.")
    assert cards.see(silent, times=3) == []
    assert cards.see(silent) == ["cuda:0/lost"]


def test_all_cards_gone_is_said_and_none_from_the_start_is_not(cards):
    assert cards.see(message="no NVIDIA GPU found: CPU mode", times=10) == []
    cards.see(CALM)
    assert cards.see(message=TROUBLES[15], times=4) == ["cards/lost"]
    assert cards.alerts.shown()[0].text == TROUBLES[15]
    assert cards.see(CALM) == []


def test_values_that_are_not_told_raise_nothing(cards):
    assert cards.see(Gpu(0, "NVIDIA GB10"), times=20) == []
