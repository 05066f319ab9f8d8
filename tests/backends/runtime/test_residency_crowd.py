"""Four people at once load, ask, cancel, park, unload and kill what they like: real workers."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from backends.events import Done
from backends.runtime.residency import WhenIdle
from tests.backends.runtime.test_residency import CARD, MB, Desk, collect, drive

SECONDS, PATIENCE = 5, 30  # how long they go on, and for how long one of them waits at most


async def person(desk: Desk, chance: random.Random, until: float, answers: list[bool]) -> None:
    supervisor = desk.residency.supervisor
    while time.monotonic() < until:
        there = list(supervisor.residents.values())
        one = chance.choice(there) if there else None
        wish = chance.choice(("load", "ask", "ask", "ask", "kill", "unload", "park", "cancel"))
        async with asyncio.timeout(PATIENCE):
            if wish == "load" and len(there) < 5:
                options = {"card_mb": chance.choice((300, 500, 600, 900)),
                           "move_seconds": chance.choice((0, 0.05, 0.2))}  # fmt: skip
                await collect(supervisor.load(supervisor.admit("echo", "none:", options)))
            elif one is None:
                await asyncio.sleep(0.01)
            elif wish == "ask":
                answers.append(isinstance((await desk.ask(one))[-1], Done))
            elif wish == "kill" and one.child:
                one.child.kill()
            elif wish == "unload":
                await desk.residency.unload(one)
            elif wish == "park":
                await desk.residency.park(one)
            elif wish == "cancel":
                question = asyncio.create_task(desk.ask(one))
                await asyncio.sleep(chance.random() / 5)
                question.cancel()
                await asyncio.wait({question})
        await asyncio.sleep(chance.random() / 20)


async def watch(desk: Desk) -> None:
    while True:
        assert desk.card.used(CARD) <= desk.card.total[CARD], "more on the card than it has"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_held_twice_or_waited_for_in_vain(home: Path, seed: int) -> None:
    async def body(desk: Desk) -> None:
        chance, answers = random.Random(seed), list[bool]()
        desk.card.total["cpu"] = chance.choice((900, 2000, 4000)) * MB
        guard = asyncio.create_task(watch(desk))
        until = time.monotonic() + SECONDS
        await asyncio.gather(*(person(desk, chance, until, answers) for _ in range(4)))
        guard.cancel()
        await asyncio.wait({guard})
        assert guard.cancelled() and any(answers)
        await asyncio.sleep(1)
        residents = list(desk.residency.supervisor.residents.values())
        for one in residents:
            known = ("none",) if one.state in ("crashed", "stopped") else (one.state,)
            assert desk.state(one) == (one.state, *known)
        for one in residents:
            await desk.residency.unload(one)
        assert desk.ledger.entries() == () and desk.card.used(CARD) == 0

    drive(home, body, when_idle=lambda: WhenIdle("nothing"))
