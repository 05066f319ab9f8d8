"""The warm spare: made while nothing is loading, said to be ready, taken by the next load."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from backends.echo import Echo
from backends.events import Done
from backends.runtime import supervisor as runtime
from backends.runtime.supervisor import Supervisor


class Slow(Echo):
    """An echo that wants a spare, and of what it preloads one module is missing."""

    card = dataclasses.replace(Echo.card, preload=("asyncio", "no_such_module_anywhere"))


def test_the_next_load_takes_the_spare_that_is_ready(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "BACKENDS", {"echo": Slow})
    monkeypatch.setattr(runtime, "SPARE_RAM_BYTES", 0)

    async def body() -> None:
        supervisor = Supervisor(home)
        await supervisor.start()
        try:
            assert supervisor.spare_state == "none"
            async with asyncio.timeout(20):
                while supervisor.spare_state != "ready":
                    await asyncio.sleep(0.02)
            assert supervisor.spare
            pid = supervisor.spare.pid
            resident = supervisor.admit("echo", "none:", {})
            events = [event async for event in supervisor.load(resident)]
            assert isinstance(events[-1], Done)
            assert resident.child and resident.child.pid == pid
            assert supervisor.spare_state == "none"
        finally:
            await supervisor.stop()

    asyncio.run(body())
