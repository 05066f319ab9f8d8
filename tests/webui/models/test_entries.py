"""What the Models tab lists, and what it says of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import ModelRef
from backends.card.gpu import Gpu, Machine, Reading
from backends.models import library
from backends.models.hub import Found
from backends.models.usage import Use
from tests.backends.models import crafted
from tests.benches import with_bench
from webui.bench import Bench
from webui.models.entries import Entry, budget_of, entries, matching

GB = 2**30


class OneCard(Machine):
    """A computer with a card of 12 GB that a desktop uses a little."""

    def read(self) -> Reading:
        card = Gpu(index=0, name="NVIDIA GeForce RTX 4070 Ti", total_bytes=12 * GB)
        return replace(super().read(), mode="cuda", gpus=(card,))


@pytest.fixture(autouse=True)
def places(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def look(home: Path, body: Callable[[Bench], None], machine: Machine | None = None) -> None:
    async def run(bench: Bench) -> None:
        await asyncio.to_thread(body, bench)

    with_bench(home, run, machine=machine)


def named(found: list[Entry]) -> dict[str, Entry]:
    assert len({e.ref for e in found}) == len(found)
    return {e.ref: e for e in found}


HIT = Found("somebody/tiny", "chat", 1234, 5, False, "mit", 8 * 10**9, 4 * 10**9, ("safetensors",),
            "2026-01-01")  # fmt: skip


def test_the_catalogue_what_is_here_and_what_the_hub_found_are_listed_once_each(home: Path) -> None:
    crafted.folder(library.models_folder() / "mine")
    known = replace(HIT, name="Qwen/Qwen3-4B")

    def body(bench: Bench) -> None:
        found = named(entries(bench, [HIT, known]))
        starter = found["starter:smollm2-135m-instruct"]
        assert starter.here and starter.starter and starter.badges[0].name == "as it is"
        assert found["folder:mine"].here and found["folder:mine"].title == "mine"
        row = found["hub:Qwen/Qwen3-4B"]
        assert not row.here and row.title == "Qwen3 4B" and not row.popular
        hit = found["hub:somebody/tiny"]
        assert (hit.popular, hit.licence, hit.here) == (1234, "mit", False)
        assert [b.name for b in hit.badges] == ["16-bit", "4-bit"]
        assert not found["hub:openai/whisper-tiny"].usable

    look(home, body)


def test_what_fits_is_reckoned_for_the_card_less_what_the_settings_keep_free(home: Path) -> None:
    def body(bench: Bench) -> None:
        assert budget_of(bench).device == "cuda:0" and budget_of(bench).bytes == 11.5 * GB
        eight = named(entries(bench))["hub:meta-llama/Llama-3.1-8B-Instruct"]
        assert {b.name: b.level for b in eight.badges} == {
            "16-bit": "bad", "8-bit": "good", "4-bit": "good", "part in RAM": "tight",
        }  # fmt: skip
        bench.settings.change(reserve_gb=5)
        assert budget_of(bench).bytes == 7 * GB
        eight = named(entries(bench))["hub:meta-llama/Llama-3.1-8B-Instruct"]
        assert {b.name: b.level for b in eight.badges}["8-bit"] == "bad"
        starter = named(entries(bench))["starter:smollm2-135m-instruct"]
        assert "of RAM" in starter.badges[0].says  # this build runs GGUF on the CPU

    look(home, body, OneCard())


def test_without_a_card_it_is_reckoned_for_ram(home: Path) -> None:
    devices: list[str] = []
    look(home, lambda bench: devices.append(budget_of(bench).device))
    assert devices == ["cpu"]


def test_the_rest_of_a_download_that_was_given_up_can_be_seen_and_deleted(home: Path) -> None:
    rest = Use("Qwen/Qwen3-8B", "hub", 5 * 10**9, ModelRef.parse("hub:Qwen/Qwen3-8B"),
               note="A part of it was downloaded and not finished.")  # fmt: skip

    def body(bench: Bench) -> None:
        found = [e for e in entries(bench, uses=[rest]) if e.here and e.name == "Qwen/Qwen3-8B"]
        assert len(found) == 1 and found[0].bytes == 5 * 10**9
        assert found[0].problem.startswith("A part of it was downloaded and not finished.")

    look(home, body)


def test_a_download_shows_at_its_row_of_the_catalogue_and_else_in_one_of_its_own(
    home: Path,
) -> None:
    async def body(bench: Bench) -> None:
        bench.downloads._run = lambda: None  # type: ignore[method-assign]  # nothing leaves
        bench.downloads.add("Qwen/Qwen3-4B")
        bench.downloads.add("somebody/else", "x.Q4_K_M.gguf")
        found = named(await asyncio.to_thread(entries, bench))
        assert found["hub:Qwen/Qwen3-4B"].download and not found["hub:Qwen/Qwen3-4B"].here
        assert found["hub:somebody/else"].title == "somebody/else (x.Q4_K_M.gguf)"
        shown = matching(list(found.values()), "", "", "here")
        assert {"hub:Qwen/Qwen3-4B", "hub:somebody/else"} <= {e.ref for e in shown}

    with_bench(home, body)


@pytest.mark.parametrize(
    ("words", "task", "where", "there", "away"),
    [
        ("qwen 8b", "", "all", "Qwen3 8B", "Qwen3 4B"),
        ("LLAMA community", "", "all", "Llama 2 7B Chat", "Qwen3 4B"),
        ("", "speech", "all", "Whisper tiny", "Qwen3 4B"),
        ("", "", "here", "SmolLM2 135M Instruct (starter, GGUF)", "Qwen3 4B"),
        ("", "", "fits", "Qwen3 4B", "Echo (no model)"),
    ],
)  # fmt: skip
def test_the_filters(home: Path, words: str, task: str, where: str, there: str, away: str) -> None:
    def body(bench: Bench) -> None:
        titles = {e.title for e in matching(entries(bench), words, task, where)}
        assert there in titles and away not in titles

    look(home, body, OneCard())
