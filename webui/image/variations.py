"""Pictures that are almost the same one: the same seed, a little of another seed's noise."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

VARIATION = 0.15  # how much of the other noise, where nothing is said: alike, and not the same
SEEDS = 2**32


def variations(
    params: Mapping[str, Any], count: int, dice: random.Random | None = None
) -> list[dict[str, Any]]:
    """`count` times what `ImageParams` takes, each with a variation seed of its own.

    A seed of -1 is settled first, since all share it. The variation seeds follow each other from
    the one given, or from one that is drawn.
    """
    dice = dice or random.Random()
    fixed = with_seed(params, dice)
    first = int(params.get("variation_seed", -1))
    first = dice.randrange(SEEDS) if first < 0 else first
    amount = float(params.get("variation") or 0.0) or VARIATION
    return [
        {**fixed, "variation": amount, "variation_seed": (first + n) % SEEDS} for n in range(count)
    ]


def with_seed(params: Mapping[str, Any], dice: random.Random | None = None) -> dict[str, Any]:
    """The same with a seed that is settled: what several pictures are to have in common."""
    seed = int(params.get("seed", -1))
    return {**params, "seed": (dice or random.Random()).randrange(SEEDS) if seed < 0 else seed}
