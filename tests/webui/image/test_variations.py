"""Variations of one picture."""

from __future__ import annotations

import random
from typing import Any

from backends.image.params import ImageParams
from backends.params import read, to_dict
from webui.image.variations import VARIATION, variations, with_seed
from webui.presets import Presets


def test_all_share_the_seed_and_differ_in_the_other() -> None:
    made = variations({"prompt": "fox"}, 4, random.Random(1))
    assert len({one["seed"] for one in made}) == 1 and made[0]["seed"] >= 0
    first = made[0]["variation_seed"]
    assert [one["variation_seed"] for one in made] == [first + n for n in range(4)]
    assert {one["variation"] for one in made} == {VARIATION}
    for one in made:
        read(ImageParams, one)


def test_what_was_given_is_kept() -> None:
    given: dict[str, Any] = {"seed": 5, "variation": 0.4, "variation_seed": 2**32 - 1}
    assert variations(given, 2) == [given, {**given, "variation_seed": 0}]
    assert with_seed(given) == given


def test_presets_keep_what_a_picture_is_drawn_with(home: Any) -> None:
    presets, settings = Presets(home, "image"), to_dict(ImageParams(prompt="fox", steps=30))
    presets.save("Mine", settings)
    assert read(ImageParams, Presets(home, "image").get("Mine").settings) == ImageParams(
        prompt="fox", steps=30
    )
