"""The numbers under an answer, and the limits before one."""

from __future__ import annotations

import os
import time

import pytest

from backends.base import Refused
from backends.chat import usage


def test_one_core_stays_free_and_a_wish_is_granted() -> None:
    assert usage.threads(7) == 7
    assert usage.threads() == max(1, len(os.sched_getaffinity(0)) - 1)


@pytest.mark.parametrize(
    ("asked", "trained", "context"),
    [(0, 2048, 2048), (0, 131_072, 8192), (0, 0, 8192), (32_768, 131_072, 32_768), (512, 0, 512)],
)
def test_the_context_is_what_was_asked_or_a_modest_one(
    asked: int, trained: int, context: int
) -> None:
    assert usage.context_length(asked, trained) == context


def test_more_context_than_trained_and_too_long_a_prompt_are_refused_with_both_numbers() -> None:
    with pytest.raises(Refused, match="context of 2,048 tokens, not 4,096"):
        usage.context_length(4096, 2048)
    with pytest.raises(Refused, match="is 2,048 tokens long, and the context takes 2,048"):
        usage.check_prompt(2048, 2048)
    assert usage.check_prompt(2047, 2048) is None


def test_a_seed_is_kept_and_minus_one_draws_a_new_one() -> None:
    assert usage.draw_seed(0) == 0 and usage.draw_seed(2**31 - 1) == 2**31 - 1
    drawn = {usage.draw_seed(-1) for _ in range(20)}
    assert len(drawn) == 20 and all(0 <= seed < 2**31 for seed in drawn)


def test_speed_is_that_of_writing_without_the_wait_for_the_first_token() -> None:
    meter = usage.Meter(seed=5, context_length=100)
    meter.started = time.monotonic() - 3.0
    meter.first = meter.started + 1.0
    meter.token()
    said = meter.usage(10, 21, "stop")
    assert said["first_token_seconds"] == pytest.approx(1.0, abs=0.01)
    assert said["tokens_per_second"] == pytest.approx(20 / 2.0, rel=0.02)
    assert usage.Meter(1, 2).usage(3, 0, "stop")["tokens_per_second"] == 0.0
