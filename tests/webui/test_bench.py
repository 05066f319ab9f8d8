"""The bench: one process for one model, and a ledger that knows everybody who holds memory."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS
from backends.base import Refused
from backends.card import pretended
from backends.card.gpu import Machine, Reading
from backends.card.ledger import GB
from backends.echo import Echo
from backends.events import Done, Event, Failed, Text
from backends.runtime import spare as runtime
from backends.runtime.residency import WhenIdle
from backends.runtime.spare import SPARE
from tests.benches import with_bench
from webui.bench import Bench, Waiting, complete
from webui.model_picker import first_choice, model_status


def generate(bench: Bench, who: str = "a", **params: Any) -> tuple[asyncio.Task[None], list[Any]]:
    """An answer of Echo under way, and what it has said so far."""
    seen: list[Event | Waiting] = []
    options = params.pop("options", None)
    params = {"messages": [{"role": "user", "content": "a b c d"}], **params}

    async def follow() -> None:
        async for event in bench.generate(bench.find("echo"), params, who, options=options):
            seen.append(event)

    return asyncio.create_task(follow()), seen


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


SLOWLY = {"words": 10_000, "words_per_second": 50}


# One model, one process


def test_unload_ends_who_answers_and_who_waits_and_brings_no_second_process(home: Path) -> None:
    async def body(bench: Bench) -> None:
        first, said = generate(bench, "a", **SLOWLY)
        await until(lambda: any(isinstance(e, Text) for e in said))
        second, waited = generate(bench, "b")
        await until(lambda: any(isinstance(e, Waiting) for e in waited))
        resident = bench.resident_of(bench.find("echo"))
        assert resident and resident.child
        await bench.unload(resident)
        await asyncio.wait_for(asyncio.gather(first, second), 5)
        assert isinstance(said[-1], Failed) and "was unloaded" in said[-1].message
        assert isinstance(waited[-1], Failed) and "was unloaded" in waited[-1].message
        assert not resident.child.alive and bench.supervisor.residents == {}
        assert bench.ledger.entries() == ()
        again = [generate(bench, who) for who in "cd"]
        await asyncio.wait_for(asyncio.gather(*(task for task, _ in again)), 20)
        assert all(isinstance(seen[-1], Done) for _, seen in again)
        assert len(bench.supervisor.residents) == 1

    with_bench(home, body)


def test_other_load_options_are_refused_while_it_answers(home: Path) -> None:
    async def body(bench: Bench) -> None:
        echo = bench.find("echo")
        task, said = generate(bench, **SLOWLY)
        await until(lambda: any(isinstance(e, Text) for e in said))
        resident = bench.resident_of(echo)
        with pytest.raises(Refused, match="is answering with other settings"):
            bench.load(echo, {"ballast_mb": 1})
        other, seen = generate(bench, "b", options={"ballast_mb": 1})
        await asyncio.wait_for(other, 5)
        assert isinstance(seen[-1], Failed) and "other settings" in seen[-1].message
        assert bench.resident_of(echo) is resident and not task.done()
        assert bench.load(echo, {}).resident is resident  # the same ones are no others
        task.cancel()
        await asyncio.wait({task})
        await until(lambda: resident and not resident.running)
        assert isinstance(await bench.load(echo, {"ballast_mb": 1}).task, Done)  # type: ignore[misc]
        assert len(bench.supervisor.residents) == 1

    with_bench(home, body)


def test_other_load_options_are_refused_while_it_loads(home: Path) -> None:
    async def body(bench: Bench) -> None:
        echo = bench.find("echo")
        loading = bench.load(echo, {"load_seconds": 30})
        with pytest.raises(Refused, match="being loaded with other settings"):
            bench.load(echo, {})
        assert bench.load(echo, None) is loading
        loading.cancel()
        await until(lambda: not bench.supervisor.residents)

    with_bench(home, body)


# Who holds how much


class Preloading(Echo):
    """In the page's list alone: the worker's own echo is loaded, in the spare."""

    card = dataclasses.replace(Echo.card, preload=("sqlite3",))


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "BACKENDS", {"echo": Preloading})
    monkeypatch.setattr(runtime, "SPARE_RAM_BYTES", 0)
    monkeypatch.setitem(BACKENDS, "echo", Preloading)


def kinds(bench: Bench) -> list[str]:
    return [entry.kind for entry in bench.ledger.entries()]


@pytest.mark.usefixtures("spare")
def test_the_spare_has_an_entry_until_a_load_takes_it(home: Path) -> None:
    async def body(bench: Bench) -> None:
        await until(lambda: kinds(bench) == ["spare"])
        await until(lambda: bench.supervisor.spare_state == "ready")
        await until(lambda: bench.ledger.get(SPARE).held_bytes > 10**7)  # type: ignore[union-attr]
        health = await bench.health()
        [row], [worker] = health["ledger"], health["workers"]
        assert (row["id"], row["kind"], row["device"]) == (SPARE, "spare", "cpu")
        assert (worker["id"], worker["kind"], worker["state"]) == (SPARE, "spare", "warm")
        assert row["measured_bytes"] > 10**7 and worker["pid"]
        end = await bench.load(bench.find("echo"), {"ballast_mb": 50}).task  # type: ignore[misc]
        assert isinstance(end, Done) and kinds(bench) == ["model"]
        [entry] = bench.ledger.entries()
        [chip] = bench.monitor.holders()
        [resident] = bench.supervisor.residents.values()
        assert resident.child and resident.child.pid == worker["pid"]
        sizes = (entry.measured_bytes, chip["bytes"], resident.held_bytes)
        back = (await bench.unload(resident))["rss_bytes"]
        assert back > 50 * 2**20 and max(abs(back - size) for size in sizes) < 20 * 2**20
        # And the next one, which may find no spare, is expected to take as much.
        assert abs(bench.need(resident, "cpu").bytes - back) < 20 * 2**20

    with_bench(home, body, spare=True)


@pytest.mark.usefixtures("spare")
def test_a_spare_that_dies_leaves_the_ledger(home: Path) -> None:
    async def body(bench: Bench) -> None:
        await until(lambda: kinds(bench) == ["spare"])
        assert bench.supervisor.spare
        bench.supervisor.spare.kill()
        await until(lambda: kinds(bench) == [], 3)

    with_bench(home, body, spare=True)


def test_the_spare_goes_first_where_a_model_needs_its_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch, spare: None
) -> None:
    monkeypatch.setitem(BACKENDS, "echo", Echo)  # which takes no spare

    async def body(bench: Bench) -> None:
        await until(lambda: bench.supervisor.spare_state == "ready")
        monkeypatch.setattr(runtime, "BACKENDS", {"echo": Echo})
        child = bench.supervisor.spare
        await until(lambda: bench.ledger.get(SPARE).held_bytes > 10**7)  # type: ignore[union-attr]
        held = bench.ledger.get(SPARE).held_bytes  # type: ignore[union-attr]
        bench.ledger.free = lambda device: GB + held // 2  # beyond the gigabyte that stays free
        bench.measured.append(
            kind="load", backend="echo", model="none:", device="cpu", measured_bytes=held,
            options=complete("echo", {}),
        )  # fmt: skip
        end = await bench.load(bench.find("echo"), {}).task  # type: ignore[misc]
        assert isinstance(end, Done), end
        assert not child.alive and kinds(bench) == ["model"]  # type: ignore[union-attr]

    with_bench(home, body, spare=True)


class Asked(Machine):
    """Remembers in which thread it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def read(self) -> Reading:
        self.threads.append(threading.get_ident())
        return super().read()


def test_the_driver_is_never_waited_for_in_the_event_loop(home: Path) -> None:
    machine = Asked()

    async def body(bench: Bench) -> None:
        assert bench.reading.mode  # what building the page has brought
        machine.threads.clear()
        models = bench.models("chat")
        for _ in range(3):
            first_choice(bench, models)
        assert machine.threads == []  # not once for each model either
        assert isinstance(await bench.load(bench.find("echo"), {}).task, Done)  # type: ignore[misc]
        loaded = len(machine.threads)
        await asyncio.sleep(1.1)
        assert (await bench.health())["gpu"]["mode"]
        assert loaded and len(machine.threads) > loaded  # as it is now, and not as it was
        assert threading.get_ident() not in machine.threads

    with_bench(home, body, machine=machine)


class SmallReading(Reading):
    @property
    def has_gpu(self) -> bool:
        return True

    def free_bytes(self, device: str) -> int:
        return 40 * GB if device == "cpu" else 11 * GB


class SmallCard(Machine):
    """A GPU with 12 GB, most of it free, in a computer with 48 GB."""

    def read(self) -> Reading:
        found = super().read()
        return SmallReading(**{f.name: getattr(found, f.name) for f in dataclasses.fields(found)})


def test_a_parked_model_is_shown_as_such_and_answers_by_coming_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pretended.VARIABLE, "2000")

    async def body(bench: Bench) -> None:
        echo = bench.find("echo")
        options = {"card_mb": 600}
        assert isinstance(await bench.load(echo, options).task, Done)  # type: ignore[misc]
        resident = bench.resident_of(echo)
        assert resident and await bench.residency.park(resident)
        health = await bench.health()
        assert [worker["state"] for worker in health["workers"]] == ["parked"]
        [row] = health["ledger"]
        assert (row["state"], row["device"], row["parked_bytes"]) == (
            "parked", "cuda:0", 600 * 2**20,
        )  # fmt: skip
        [chip] = bench.monitor.holders()
        assert (chip["state"], chip["bytes"]) == ("parked", 600 * 2**20)
        assert "Parked in RAM · back in about 1 s · 0.63 GB" in model_status(bench, echo, {})
        assert await bench.count_tokens(echo, {"messages": []}, "a") == (0, 0), "counting is no use"
        assert bench.fits_together((echo, options))
        bench.machine.total_bytes = 900 * 2**20  # type: ignore[attr-defined]
        await bench.fresh_reading()
        assert not bench.fits_together((echo, options)), "its place, with what stays free, is gone"
        bench.machine.total_bytes = 2000 * 2**20  # type: ignore[attr-defined]
        task, seen = generate(bench, options=options)
        await asyncio.wait_for(task, 10)
        assert isinstance(seen[-1], Done) and resident.state == "ready"
        assert not any(isinstance(event, Failed) for event in seen)
        assert (await bench.unload(resident))["cuda_bytes"] == 600 * 2**20

    with_bench(home, body)


def test_the_reserve_and_the_idle_time_are_the_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pretended.VARIABLE, "4000")

    async def body(bench: Bench) -> None:
        assert bench.ledger.available("cuda:0") == 4000 * 2**20 - GB // 2
        bench.settings.change(reserve_gb=2.0, when_idle="unload", idle_minutes=3)
        assert bench.ledger.available("cuda:0") == 4000 * 2**20 - 2 * GB
        assert bench.when_idle() == WhenIdle("unload", 180)

    with_bench(home, body)


# Jobs


def test_health_lists_the_jobs_and_the_queue_runs_while_the_page_lives(home: Path) -> None:
    spec = {"task": "chat", "method": "echo", "name": "Ruf",
            "params": {"messages": [{"role": "user", "content": "a b"}]}}  # fmt: skip

    async def body(bench: Bench) -> None:
        id = await asyncio.to_thread(bench.jobs.create, spec)
        assert [job["status"] for job in (await bench.health())["jobs"]] == ["new"]
        bench.jobs.enqueue(id)
        await until(lambda: bench.jobs.state(id).status == "finished", 20)
        (job,) = (await bench.health())["jobs"]
        assert (job["id"], job["name"], job["task"]) == (id, "Ruf", "chat")
        assert "a b" in (bench.jobs.path(id) / "log.txt").read_text("utf-8")

    with_bench(home, body)
