"""The warm spare: made while nothing is loading, said to be ready, taken by a load that gains."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.echo import Echo
from backends.events import Done, Event, Failed, Notice
from backends.runtime import resident as one
from backends.runtime import spare as runtime
from backends.runtime.child import Child
from backends.runtime.resident import Resident
from backends.runtime.supervisor import Supervisor


class Slow(Echo):
    """An echo that wants a spare, and of what it preloads one module is missing."""

    card = dataclasses.replace(Echo.card, preload=("asyncio", "no_such_module_anywhere"))


@pytest.fixture(autouse=True)
def slow_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runtime, one):
        monkeypatch.setattr(module, "BACKENDS", {"echo": Slow})
    monkeypatch.setattr(runtime, "SPARE_RAM_BYTES", 0)


def with_spare(home: Path, body: Callable[[Supervisor], Awaitable[None]], **options: Any) -> None:
    """Run `body` with a supervisor whose spare is ready."""

    async def run() -> None:
        supervisor = Supervisor(home, **options)
        await supervisor.start()
        try:
            assert supervisor.spare_state == "none"
            await until_ready(supervisor)
            await body(supervisor)
        finally:
            await supervisor.stop()

    asyncio.run(run())


async def until_ready(supervisor: Supervisor) -> None:
    async with asyncio.timeout(20):
        while supervisor.spare_state != "ready":
            await asyncio.sleep(0.02)


async def load(supervisor: Supervisor, **options: Any) -> tuple[Resident, Event]:
    resident = supervisor.admit("echo", "none:", options, "Ein Modell")
    events = [event async for event in supervisor.load(resident)]
    return resident, events[-1]


def test_the_next_load_takes_the_spare_that_is_ready(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        assert supervisor.spare
        pid = supervisor.spare.pid
        resident, end = await load(supervisor)
        assert isinstance(end, Done)
        assert resident.child and resident.child.pid == pid
        assert supervisor.spare_state == "none"

    with_spare(home, body)


def test_a_backend_that_preloads_nothing_leaves_the_spare_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runtime, one):
        monkeypatch.setattr(module, "BACKENDS", {"echo": Echo, "another": Slow})

    async def body(supervisor: Supervisor) -> None:
        spare = supervisor.spare
        resident, end = await load(supervisor)
        assert isinstance(end, Done) and spare
        assert resident.child and resident.child.pid != spare.pid
        assert supervisor.spare is spare and supervisor.spare_state == "ready"

    with_spare(home, body)


def test_what_took_the_spare_holds_all_of_its_process(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident, end = await load(supervisor, ballast_mb=100)
        assert isinstance(end, Done) and resident.child
        whole = resident.child.resident_bytes()
        assert whole > 100 * 2**20 and abs(resident.held_bytes - whole) < 20 * 2**20
        back = await supervisor.unload(resident)
        assert abs(back["rss_bytes"] - whole) < 20 * 2**20

    with_spare(home, body)


def test_its_log_is_the_model_s_from_then_on_and_begins_with_what_it_said(home: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        resident, _ = await load(supervisor)
        assert resident.child
        log = resident.child.log_path
        assert log == home / "logs" / f"worker-{resident.id}.log" and "ein-modell" in log.name
        assert "no_such_module_anywhere" in log.read_text("utf-8")
        params = {"messages": [{"role": "user", "content": "x"}], "fault": "raise"}
        events = [event async for event in supervisor.run(resident, params)]
        assert isinstance(events[-1], Failed)
        async with asyncio.timeout(5):
            while "echo was asked to fail" not in log.read_text("utf-8"):
                await asyncio.sleep(0.02)
        spares = (home / "logs" / "worker-spare.log").read_text("utf-8")
        assert "echo was asked to fail" not in spares

    with_spare(home, body)


def test_a_load_that_is_refused_gives_the_spare_back(home: Path) -> None:
    held: list[Child | None] = []

    async def no_room(resident: Resident) -> AsyncGenerator[Event, None]:
        held.append(resident.child)
        yield Notice("looking")
        raise Refused("It is too large.", "Choose another.")

    async def body(supervisor: Supervisor) -> None:
        spare = supervisor.spare
        _, end = await load(supervisor)
        assert isinstance(end, Failed) and end.message == "It is too large."
        assert held == [spare]  # so that what it holds already is not asked for again
        assert supervisor.spare is spare and supervisor.spare_state == "ready"

    with_spare(home, body, make_room=no_room)


def test_no_spare_is_started_while_a_model_loads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "SPARE_DELAY", 0.0)
    states: set[str] = set()

    async def body(supervisor: Supervisor) -> None:
        loading = asyncio.create_task(load(supervisor, load_seconds=2.5))
        await asyncio.sleep(0.1)
        while not loading.done():
            states.add(supervisor.spare_state)
            await asyncio.sleep(0.05)
        assert states == {"none"}
        await until_ready(supervisor)

    with_spare(home, body)


def test_its_keeper_hears_of_it_while_it_is_there(home: Path) -> None:
    heard: list[Child | None] = []

    async def body(supervisor: Supervisor) -> None:
        spare = supervisor.spare
        assert heard and set(heard) == {spare}
        assert [w["kind"] for w in supervisor.status()] == ["spare"]
        assert supervisor.status()[0]["pid"] == spare.pid  # type: ignore[union-attr]
        supervisor.spare.kill()  # type: ignore[union-attr]
        async with asyncio.timeout(3):
            while heard[-1] is not None:
                await asyncio.sleep(0.02)
        assert supervisor.status() == []

    with_spare(home, body, on_spare=heard.append)
