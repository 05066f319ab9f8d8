"""What the page says before a click on Load, and what the ledger asks for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.card.ledger import GB
from backends.events import Done
from backends.models import library
from backends.runtime.resident import Resident
from tests.hollow import write_7b
from tests.webui.test_bench import SmallCard, with_bench
from webui.bench import Bench, complete, size_of
from webui.forecast import outlook
from webui.model_picker import model_status


def test_a_7b_model_on_a_small_card_says_what_fits_before_and_after_the_click(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    write_7b(library.models_folder() / "llama-7b")

    async def body(bench: Bench) -> None:
        model = bench.find("folder:llama-7b")

        def said(**options: Any) -> str:
            found = outlook(bench, model, complete("transformers", options))
            return found.text if found else ""

        assert said() == "Needs about 6.6 GB of 10.5 GB free: fits."
        wide = said(quantisation="bf16", context_length=4096)
        assert wide == "Needs about 15.6 GB of 10.5 GB free: does not fit."
        wider = outlook(bench, model, complete("transformers", {"quantisation": "bf16"}))
        assert wider and [way.text for way in wider.ways] == ["8-bit: 9.6 GB", "4-bit: 6.6 GB"]
        status = model_status(bench, model, complete("transformers", {"quantisation": "bf16"}))
        assert "line bad" in status and "Not loaded" in status and "fit over" in status
        assert '{&quot;quantisation&quot;: &quot;nf4&quot;}" title="Set it so">4-bit: 6.6' in status
        # What fits as it is can still be better: more bits, or a longer context.
        small = outlook(bench, model, complete("transformers", {"context_length": 4096}))
        assert small and small.fits and small.best and small.best.text.startswith("8-bit")
        assert "Needs" not in model_status(bench, model)

        resident = bench.supervisor.admit(
            "transformers", str(model.ref), complete("transformers", {"quantisation": "bf16"})
        )
        resident.size = size_of(model)
        with pytest.raises(Refused) as refused:
            async for _ in bench.residency.make_room(resident):
                pass
        assert "It fits as 8-bit: 9.6 GB · 4-bit: 6.6 GB." in refused.value.hint

    with_bench(home, body, machine=SmallCard())


def test_layers_that_wait_in_ram_are_asked_of_it_and_offered_where_nothing_else_helps(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    write_7b(library.models_folder() / "llama-7b")

    async def body(bench: Bench) -> None:
        model = bench.find("folder:llama-7b")
        residency = bench.residency

        def admitted(**options: Any) -> Resident:
            whole = complete("transformers", options)
            one = bench.supervisor.admit("transformers", str(model.ref), whole, "Llama")
            one.size = size_of(model)
            return one

        divided = admitted(quantisation="bf16", gpu_layers=13)
        before = bench.ledger.available("cpu")
        assert [e async for e in residency.make_room(divided)] == []
        entry = bench.ledger.get(divided.id)
        assert entry and entry.ram_bytes > 6 * GB  # 19 of 32 layers of 13.5 GB
        assert before - bench.ledger.available("cpu") == entry.ram_bytes
        bench.supervisor.drop(divided)
        bench.ledger.free = {"cuda:0": 11 * GB, "cpu": 6 * GB}.__getitem__
        with pytest.raises(Refused, match="of memory, and 5.0 GB can be had") as refused:
            async for _ in residency.make_room(admitted(quantisation="bf16", gpu_layers=13)):
                pass
        bench.ledger.free = {"cuda:0": 5 * GB, "cpu": 40 * GB}.__getitem__
        with pytest.raises(Refused) as refused:
            async for _ in residency.make_room(admitted(quantisation="nf4", context_length=2048)):
                pass
        assert "layers on the GPU" in refused.value.hint
        assert "(slow: about " in refused.value.hint

    with_bench(home, body, machine=SmallCard())


def test_what_the_same_load_took_counts_and_what_comes_after_it_is_added(home: Path) -> None:
    async def body(bench: Bench) -> None:
        model = bench.find("smollm2-135m-instruct")
        options = complete(model.backend, {})
        args = (model.backend, str(model.ref), options, "cpu")
        first = bench.forecast.of(*args)
        found = outlook(bench, model, options)
        assert first and found and found.text.endswith(": fits.")
        loading = bench.load(model, {})
        assert loading.task and isinstance(await loading.task, Done)
        record = bench.measured.latest(kind="load")
        assert record and record["fit_bytes"] == first.held
        assert abs(record["measured_bytes"] / first.held - 1) < 0.15
        again = bench.forecast.of(*args)
        assert again and again.held == record["measured_bytes"]
        assert again.total - again.held == first.total - first.held
        assert bench.need(loading.resident, "cpu").bytes == again.total
        # Another context was never measured: corrected by half of what the first one was off.
        other = (model.backend, str(model.ref), complete(model.backend, {"context_length": 2048}))
        plain, learned = bench.forecast.plain(*other, "cpu"), bench.forecast.of(*other, "cpu")
        assert plain and learned
        ratio = record["measured_bytes"] / first.held
        assert learned.held / plain.held == pytest.approx(1 + (ratio - 1) / 2, abs=0.01)

    with_bench(home, body)


def test_nothing_is_said_of_what_nobody_can_foretell(home: Path) -> None:
    async def body(bench: Bench) -> None:
        echo = bench.find("echo")
        assert outlook(bench, echo, complete("echo", {})) is None
        assert bench.forecast.remedies("echo", "none:", {}, "cpu", 0, 0) == []
        with pytest.raises(Refused):
            outlook(bench, echo, complete("echo", {"load_seconds": -1}))

    with_bench(home, body)


@pytest.mark.alone
def test_a_prediction_with_a_long_history_stays_quick(home: Path) -> None:
    async def body(bench: Bench) -> None:
        model = bench.find("smollm2-135m-instruct")
        for n in range(2000):
            bench.measured.append(
                kind="load", backend=model.backend, model="folder:other", options={"n": n},
                device="cpu", fit_bytes=GB, measured_bytes=GB,
            )  # fmt: skip
        options = complete(model.backend, {})
        outlook(bench, model, options)
        took = []
        for _ in range(5):  # the best of them: the others may have waited for a busy machine
            began = time.perf_counter()
            outlook(bench, model, options)
            took.append(time.perf_counter() - began)
        assert min(took) < 0.05

    with_bench(home, body)
