"""The list of models says what fits, in numbers that the prediction of a load agrees with."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from backends.card import fit_load
from backends.card.badges import Badge, Budget, badges, best, of_figures
from backends.card.plan import LoadPlan
from backends.card.source import Source
from backends.models.catalogue import read_rows

GB = 2**30
CARD = Budget("cuda:0", int(11.3 * GB), 24 * GB)
ROWS = {row.id: row for row in read_rows()}


def figures(id: str) -> Source:
    row = ROWS[id]
    source = of_figures(row.task, row.config, row.parameters, row.parts)
    assert source
    return source


def of(id: str, budget: Budget = CARD) -> dict[str, Badge]:
    return {badge.name: badge for badge in badges(figures(id), budget)}


def test_a_badge_says_what_the_prediction_of_that_load_says() -> None:
    for bits, name in (("bf16", "16-bit"), ("int8", "8-bit"), ("nf4", "4-bit")):
        plan = LoadPlan("transformers", bits, "cuda:0", 4096)
        expected = fit_load.predict(figures("llama-3.1-8b-instruct"), plan).total
        assert of("llama-3.1-8b-instruct")[name].bytes == expected


def test_the_colours_follow_the_card() -> None:
    seven = of("llama-2-7b-chat")
    assert [seven[n].level for n in ("16-bit", "8-bit", "4-bit")] == ["bad", "good", "good"]
    thirteen = of("llama-2-13b-chat")
    assert [thirteen[n].level for n in ("16-bit", "8-bit", "4-bit")] == ["bad", "bad", "tight"]
    assert all(b.level == "good" for b in of("smollm2-360m-instruct").values())
    assert all(b.level == "bad" for b in of("llama-2-7b-chat", Budget("cuda:0", GB)).values())


def test_what_is_too_large_in_16_bits_can_have_a_part_in_ram_that_fits_there() -> None:
    part = of("llama-3.1-8b-instruct")["part in RAM"]
    assert part.level == "tight" and CARD.bytes * 0.9 < part.bytes <= CARD.bytes
    assert "of 32 layers" in part.says and "tokens/s" in part.says
    small_ram = Budget("cuda:0", CARD.bytes, 2 * GB)
    assert "part in RAM" not in of("llama-3.1-8b-instruct", small_ram)
    assert "part in RAM" not in of("qwen3-4b")  # it fits whole
    assert "part in RAM" not in of("llama-2-7b-chat", Budget("cpu", 4 * GB))


def test_the_recommended_one_is_the_best_quality_that_fits_well() -> None:
    for id, name in (("qwen3-4b", "16-bit"), ("llama-3.1-8b-instruct", "8-bit"),
                     ("gemma-7b-it", "4-bit"), ("llama-2-13b-chat", "4-bit"),
                     ("sdxl-base-1.0", "part in RAM")):  # fmt: skip
        found = best(tuple(of(id).values()))
        assert found and found.name == name, id
    assert best(badges(figures("llama-2-13b-chat"), Budget("cuda:0", GB))) is None


def test_without_a_card_slow_is_said_and_the_quickest_is_recommended() -> None:
    """4 bits are unpacked for every token there: they save memory and no time."""
    cpu = Budget("cpu", 24 * GB, 24 * GB)
    eight = of("llama-3.1-8b-instruct", cpu)
    assert eight["16-bit"].level == eight["4-bit"].level == "tight" and "8-bit" not in eight
    assert "2.5 tokens/s" in eight["16-bit"].says and eight["16-bit"].says.endswith("slowly.")
    found = best(tuple(eight.values()))
    assert found and found.name == "16-bit"
    assert of("smollm2-360m-instruct", cpu)["16-bit"].level == "good"


def test_every_row_of_the_catalogue_has_badges_on_a_card_and_without_one() -> None:
    for row in ROWS.values():
        for budget in (CARD, Budget("cpu", 14 * GB)):
            source = of_figures(row.task, row.config, row.parameters, row.parts)
            if row.ref.kind == "none":
                assert source is None
                continue
            assert source and badges(source, budget), row.id
            assert all(
                b.bytes > 0 and b.says.endswith((".", "/s.")) for b in badges(source, budget)
            )


@pytest.mark.alone
def test_the_whole_list_takes_a_moment_without_torch() -> None:
    seconds = []
    for _ in range(3):  # the best counts: something else may run for a moment
        badges.cache_clear()
        started = time.perf_counter()
        for row in ROWS.values():
            if source := of_figures(row.task, row.config, row.parameters, row.parts):
                badges(source, CARD)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.2
    code = (
        "import sys, backends.card.badges, backends.models.catalogue; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
