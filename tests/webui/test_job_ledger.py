"""Jobs and the ledger: room before the start, an entry for life, refusals, what it took."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import train
from backends.base import Refused
from backends.card import pretended
from backends.card.trainings import Trainings
from backends.events import Done, Failed
from backends.models import library
from backends.runtime.disk import read_json
from backends.runtime.job_spec import GRANT
from backends.runtime.jobs import Jobs
from backends.runtime.process import is_locked, kill_tree
from tests.backends.made_jobs import BACKENDS, Counting, job_folder, plant, planted, spec
from tests.benches import with_bench
from tests.hollow import write_7b
from webui.bench import Bench, complete
from webui.forecast import outlook

MB = 2**20
CARD_MB = 4000
LONG = {"max_steps": 2000, "step_seconds": 0.05}
STARTER = "starter:smollm2-135m-instruct-safetensors"


@pytest.fixture
def needs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], None]]:
    """A pretended card of 4,000 MB, and jobs that need so many MB of it, the CUDA context apart."""
    monkeypatch.setenv("PYTHONPATH", planted(tmp_path))
    monkeypatch.setenv(pretended.VARIABLE, str(CARD_MB))
    before, card = dict(BACKENDS), Counting.card
    plant()

    def need(megabytes: int) -> None:
        Counting.card = dataclasses.replace(
            card, memory_base=megabytes * MB, on_gpu=lambda options: True
        )

    need(1500)
    yield need
    Counting.card = card
    BACKENDS.clear()
    BACKENDS.update(before)
    for folder in (home / "jobs").glob("2*"):
        if is_locked(folder / "job.lock"):
            kill_tree(int(read_json(folder / "state.json")["pid"]))


def drive(home: Path, body: Callable[[Bench], Awaitable[None]]) -> None:
    with_bench(home, body)


def make(bench: Bench, **params: Any) -> str:
    return bench.jobs.create(spec(params=params or LONG))


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def loaded(bench: Bench, card_mb: int) -> Done | Failed:
    return await bench.load(bench.find("echo"), {"card_mb": card_mb}).task  # type: ignore[misc]


def test_a_job_has_an_entry_while_it_runs_and_is_shown(
    home: Path, needs: Callable[[int], None]
) -> None:
    async def body(bench: Bench) -> None:
        id = make(bench, max_steps=30, step_seconds=0.1)
        assert (await bench.job_ledger.start(id)).live
        entry = bench.ledger.get(id)
        assert entry and (entry.kind, entry.owner, entry.device) == ("job", "finetune", "cuda:0")
        assert entry.busy and not entry.evictable and entry.predicted_bytes > 1500 * MB
        [chip] = bench.monitor.holders()
        assert (chip["kind"], chip["owner"], chip["label"]) == (
            "job", "finetune", "Training mein Versuch",
        )  # fmt: skip
        again = await bench.job_ledger.start(id)  # a second click
        assert again.live and len(bench.ledger.entries()) == 1
        await until(lambda: bench.jobs.state(id).status == "finished")
        await until(lambda: bench.ledger.get(id) is None)
        assert bench.monitor.holders() == [] and bench.jobs.grants == {}

    drive(home, body)


def test_an_idle_model_goes_for_a_job_and_a_job_never_goes_for_a_model(
    home: Path, needs: Callable[[int], None]
) -> None:
    async def body(bench: Bench) -> None:
        assert isinstance(await loaded(bench, 1500), Done)
        resident = bench.resident_of(bench.find("echo"))
        needs(2500)
        id = make(bench)
        await bench.job_ledger.start(id)
        row = bench.ledger.get(resident.id) if resident else None
        assert row is None or row.state == "parked"
        # Now the model does not fit beside the job, which stays.
        refused = await loaded(bench, 1600)
        assert isinstance(refused, Failed) and "Training mein Versuch" in refused.hint
        assert "pause it" in refused.hint and bench.jobs.state(id).live
        bench.jobs.pause(id)
        await until(lambda: bench.ledger.get(id) is None)
        assert isinstance(await loaded(bench, 1600), Done)

    drive(home, body)


def test_what_does_not_fit_is_refused_with_numbers_and_nothing_starts(
    home: Path, needs: Callable[[int], None]
) -> None:
    async def body(bench: Bench) -> None:
        needs(5000)
        id = make(bench)
        with pytest.raises(Refused, match=r"needs 5\.6 GB of memory of cuda:0") as refused:
            await bench.job_ledger.start(id)
        assert refused.value.hint
        assert bench.jobs.state(id).status == "new" and bench.ledger.entries() == ()

    drive(home, body)


def test_a_job_of_the_queue_waits_until_it_fits(home: Path, needs: Callable[[int], None]) -> None:
    async def body(bench: Bench) -> None:
        bench.ledger.add(
            id="other", label="another program", owner="", kind="job", device="cuda:0",
            predicted_bytes=2500 * MB, measured_bytes=2500 * MB, state="ready", running=True,
        )  # fmt: skip
        id = make(bench)
        bench.jobs.enqueue(id)
        await until(lambda: bench.job_ledger.waiting_because(id))
        assert "can be had" in bench.job_ledger.waiting_because(id)
        assert bench.jobs.state(id).status == "queued"
        bench.ledger.remove("other")
        await until(lambda: bench.jobs.state(id).live)
        assert bench.job_ledger.waiting_because(id) == "" and bench.ledger.get(id)

    drive(home, body)


@pytest.mark.parametrize("gone", ["base", "dataset", "folder"])
def test_one_that_cannot_start_leaves_the_queue_and_the_next_begins(
    gone: str, home: Path, tmp_path: Path, needs: Callable[[int], None]
) -> None:
    async def body(bench: Bench) -> None:
        rows = tmp_path / "rows.json"
        rows.write_text("[]")
        base = "folder:away" if gone == "base" else "none:"
        first = bench.jobs.create(spec(base=base, dataset=str(rows), params=LONG))
        second = make(bench)
        if gone == "dataset":
            rows.unlink()
        if gone == "folder":
            shutil.rmtree(bench.jobs.path(first))
        for id in (first, second):
            bench.jobs._keep([*bench.jobs.queue(), id])
        await until(lambda: bench.jobs.state(second).live)
        assert bench.jobs.queue() == []
        if gone != "folder":
            state = bench.jobs.state(first)
            assert state.status == "failed" and state.resumable and state.hint
            assert ("away" if gone == "base" else "is gone") in state.message
            assert not (bench.jobs.path(first) / "log.txt").exists(), "no process was wasted on it"

    drive(home, body)


def test_one_that_is_larger_than_the_card_does_not_wait_for_ever(
    home: Path, needs: Callable[[int], None]
) -> None:
    async def body(bench: Bench) -> None:
        needs(5000)
        id = make(bench)
        bench.jobs.enqueue(id)
        await until(lambda: bench.jobs.state(id).status == "failed")
        state = bench.jobs.state(id)
        assert "3.9 GB in all" in state.message and state.hint and not bench.ledger.get(id)

    drive(home, body)


def test_another_page_finds_a_job_that_runs_and_writes_it_down(
    home: Path, needs: Callable[[int], None]
) -> None:
    jobs = Jobs(home)
    id = jobs.create(spec(params=LONG))
    jobs.start(id)

    async def body(bench: Bench) -> None:
        await until(lambda: bench.ledger.get(id))
        entry = bench.ledger.get(id)
        assert entry and entry.kind == "job" and entry.predicted_bytes > 1500 * MB
        assert bench.ledger.available("cuda:0") < (CARD_MB - 1500) * MB

    drive(home, body)


def test_a_model_that_does_not_fit_beside_a_job_is_told_so_before_the_click(
    home: Path, needs: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_HOME", str(home))
    monkeypatch.setenv(pretended.VARIABLE, "12000")
    write_7b(library.models_folder() / "llama-7b")

    async def body(bench: Bench) -> None:
        needs(8000)
        id = make(bench)
        await bench.job_ledger.start(id)
        model = bench.find("folder:llama-7b")
        options = complete("transformers", {})
        found = outlook(bench, model, options)
        assert found and not found.fits and found.pause == (id,)
        assert "does not fit beside Training mein Versuch. Wait for it, or pause it" in found.text

    drive(home, body)


def test_a_job_is_told_how_much_of_the_card_it_may_take_and_keeps_to_it(
    home: Path, tmp_path: Path, needs: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        id = make(bench)
        await bench.job_ledger.start(id)
        grant = bench.jobs.grants[id]
        assert 1500 * MB <= grant <= CARD_MB * MB
        assert bench.jobs.environment(id)[GRANT] == str(grant)

    drive(home, body)
    limits: list[dict[str, Any]] = []
    monkeypatch.setattr(train, "limit_gpu", limits.append)
    monkeypatch.setenv(GRANT, "123")
    assert train.Job(job_folder(tmp_path, params={"max_steps": 1}), None).go() == "finished"
    assert limits == [{"grant_bytes": "123"}]


def test_what_a_training_took_is_learned_from_unless_it_had_to_shrink(home: Path) -> None:
    """Steps that a job of the starter might have written; the job itself is not run."""
    (home / "rows.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]), "utf-8")

    async def body(bench: Bench) -> None:
        def one(notice: str) -> None:
            made = {"task": "finetune", "method": "sft", "base": STARTER, "dataset": "rows.json"}
            id = bench.jobs.create({**made, "params": {"max_length": 128}}, beside=home)
            run = bench.job_ledger._described(bench.jobs.state(id))
            assert run.device == "cpu" and run.need.bytes > 10**9
            lines = [{"step": n, "tokens_per_second": 100.0, "memory": 3e9} for n in range(1, 9)]
            folder = bench.jobs.path(id)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text, "utf-8")
            (folder / "events.jsonl").write_text(json.dumps({"message": notice}) + "\n", "utf-8")
            run.peak = 3 * 10**9
            bench.job_ledger._learn(run)

        one("Memory ran out at step 3. The micro-batch is now 1.")
        assert Trainings(bench.measured).records("cpu") == []
        one("Resumed.")
        [record] = Trainings(bench.measured).records("cpu")
        assert record["model"] == STARTER and record["measured_bytes"] == 3 * 10**9
        assert record["tokens_per_second"] == 100.0 and record["settings"]["quantisation"] == "fp32"
        assert Trainings(bench.measured).rate(STARTER, "cpu") == (
            pytest.approx(100 * record["operations"]), True,
        )  # fmt: skip

    drive(home, body)
