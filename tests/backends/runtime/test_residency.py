"""Real echo workers on a card that is pretended: parked, brought back, killed on the way."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.card.ledger import Entry, Ledger
from backends.card.reading import Gpu, Host, Reading
from backends.events import Done, Event, Failed, Notice, Text
from backends.runtime import residency as runtime
from backends.runtime.residency import Need, Residency, WhenIdle
from backends.runtime.resident import Resident

MB = 2**20
CARD = "cuda:0"


class Card:
    """A card of 1,000 MB. What the workers say they hold is what it shows as used, and
    `leak` bytes that nobody gives back."""

    def __init__(self) -> None:
        self.total = {CARD: 1000 * MB, "cpu": 4000 * MB}
        self.residency: Residency | None = None
        self.leak = 0
        self.needs: dict[str, int] = {}  # by label, where it is not what the options say

    def used(self, device: str) -> int:
        assert self.residency
        held = 0
        for resident in self.residency.supervisor.residents.values():
            child = resident.child
            memory = child.memory if child and child.alive else {}
            held += memory.get("cuda_bytes" if device == CARD else "parked_bytes", 0)
        return held + (self.leak if device == CARD else 0)

    def free(self, device: str) -> int:
        return self.total[device] - self.used(device)

    async def watched_reading(self) -> Reading:
        await asyncio.sleep(0)
        gpu = Gpu(0, used_bytes=self.used(CARD), free_bytes=self.free(CARD))
        return Reading(0.0, "cuda", "", (gpu,), Host(None, None, None, None))

    def device_of(self, backend: str, options: dict[str, Any]) -> str:
        return CARD if options.get("card_mb") else "cpu"

    def need(self, resident: Resident, device: str) -> Need:
        return Need(self.needs.get(resident.label, resident.options["card_mb"] * MB))

    def advice(self, resident: Resident, device: str, hint: str) -> str:
        return hint

    def loaded(self, resident: Resident, entry: Entry) -> None:
        assert entry.state == "loading"

    def changed(self, resident: Resident) -> None:
        pass


@dataclasses.dataclass
class Desk:
    card: Card
    residency: Residency
    seen: list[Event] = dataclasses.field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.residency.ledger

    async def load(self, label: str, card_mb: int = 600, **options: Any) -> Resident:
        supervisor = self.residency.supervisor
        resident = supervisor.admit("echo", "none:", {"card_mb": card_mb, **options}, label)
        self.seen = await collect(supervisor.load(resident))
        return resident

    async def ask(self, resident: Resident, text: str = "one two") -> list[Event]:
        params = {"messages": [{"role": "user", "content": text}]}
        return await collect(self.residency.supervisor.run(resident, params))

    def state(self, resident: Resident) -> tuple[str, str]:
        """Of the resident, and of its entry."""
        entry = self.ledger.get(resident.id)
        return resident.state, entry.state if entry else "none"


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(e.delta for e in events if isinstance(e, Text))


def notices(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, Notice)]


def drive(home: Path, body: Callable[[Desk], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        card = Card()
        ledger = Ledger(card.free, {})
        residency = Residency(home, ledger, card, spare=False, **options)
        card.residency = residency
        await residency.start()
        try:
            await body(Desk(card, residency))
            for entry in ledger.entries():  # whatever happened: an entry for each that lives
                resident = residency.supervisor.residents[entry.id]
                assert resident.child and resident.child.alive
        finally:
            await residency.stop()

    asyncio.run(run())


PARKED, READY = ("parked", "parked"), ("ready", "ready")


def test_two_models_take_turns_on_a_card_for_one(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        b = await desk.load("B")
        assert notices(desk.seen) == ["A was parked in RAM to make room."]
        assert (desk.state(a), desk.state(b)) == (PARKED, READY)
        assert a.status()["state"] == "parked" and a.parked_bytes == 600 * MB
        assert desk.card.used(CARD) == desk.card.used("cpu") == 600 * MB
        pid = a.child.pid  # type: ignore[union-attr]
        answer = await desk.ask(a, "back again")
        assert notices(answer) == ["B was parked in RAM to make room."]
        assert text_of(answer) == "back again" and isinstance(answer[-1], Done)
        assert (desk.state(a), desk.state(b)) == (READY, PARKED)
        assert a.child.pid == pid and a.return_seconds > 0  # type: ignore[union-attr]
        assert not a.restarts, "to come back is no restart"
        await desk.residency.unload(b)
        assert [e.id for e in desk.ledger.entries()] == [a.id]

    drive(home, body)


def test_where_ram_is_short_the_model_is_unloaded_instead(home: Path) -> None:
    async def body(desk: Desk) -> None:
        desk.card.total["cpu"] = 500 * MB
        a = await desk.load("A")
        await desk.load("B")
        assert notices(desk.seen) == ["A was unloaded to make room: 0.6 GB came back."]
        assert desk.state(a) == ("unloaded", "none")
        assert not a.child.alive  # type: ignore[union-attr]

    drive(home, body)


def test_one_that_answers_stays_and_the_refusal_says_so(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        params = {"messages": [{"role": "user", "content": "x"}], "words": 10_000,
                  "words_per_second": 50}  # fmt: skip
        run = asyncio.create_task(collect(desk.residency.supervisor.run(a, params)))
        while a.state != "busy":
            await asyncio.sleep(0.01)
        b = await desk.load("B")
        assert isinstance(desk.seen[-1], Failed) and "Wait for A" in desk.seen[-1].hint
        assert b.state == "failed" and a.state == "busy"
        run.cancel()

    drive(home, body)


def test_two_loads_at_once_park_one_after_the_other(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_seconds=0.3)
        supervisor = desk.residency.supervisor
        two = [supervisor.admit("echo", "none:", {"card_mb": 600}, label) for label in "BC"]
        ends = await asyncio.gather(*(collect(supervisor.load(r)) for r in two))
        # The second finds the first still loading: it waits, parks it, or is told to wait.
        assert isinstance(ends[0][-1], Done) and desk.state(a) == PARKED
        assert desk.card.used(CARD) <= 1000 * MB
        if isinstance(ends[1][-1], Failed):
            assert "Wait for B" in ends[1][-1].hint

    drive(home, body)


def test_a_load_cancelled_while_another_is_parked_leaves_that_one_parked(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_seconds=0.5)
        supervisor = desk.residency.supervisor
        b = supervisor.admit("echo", "none:", {"card_mb": 600}, "B")
        load = asyncio.create_task(collect(supervisor.load(b)))
        while a.state != "parking":
            await asyncio.sleep(0.01)
        load.cancel()
        await asyncio.wait({load})
        while a.state == "parking":
            await asyncio.sleep(0.01)
        assert desk.state(a) == PARKED and desk.state(b) == ("unloaded", "none")
        assert text_of(await desk.ask(a)) == "one two" and desk.state(a) == READY

    drive(home, body)


def test_a_question_while_it_is_being_parked_brings_it_back(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_seconds=0.3)
        parking = asyncio.create_task(desk.residency.park(a))
        while a.state != "parking":
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(desk.ask(a, "first"), desk.ask(a, "second"))
        assert [text_of(answer) for answer in answers] == ["first", "second"]
        await parking
        assert desk.state(a) == READY

    drive(home, body)


def test_a_return_goes_on_when_nobody_waits_for_it(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_seconds=0.4)
        assert await desk.residency.park(a)
        task = asyncio.create_task(desk.ask(a))
        while a.state != "returning":
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        while a.state == "returning":
            await asyncio.sleep(0.01)
        assert desk.state(a) == READY and a.child.alive  # type: ignore[union-attr]

    drive(home, body)


# What goes wrong on the way


@pytest.mark.parametrize(("fault", "state"), [("kill", "none"), ("refuse", "ready")])
def test_parking_that_fails_frees_or_keeps_the_entry(home: Path, fault: str, state: str) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_fault=fault)
        assert not await desk.residency.park(a)
        await asyncio.sleep(0.1)
        assert desk.state(a)[1] == state
        if fault == "kill":
            assert a.state == "crashed"
        # Whoever needs the place gets it all the same.
        await desk.load("B")
        assert isinstance(desk.seen[-1], Done)

    drive(home, body)


def test_one_that_dies_while_it_is_parked_leaves_the_ledger_and_loads_again(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        assert await desk.residency.park(a)
        psutil.Process(a.child.pid).kill()  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            while a.state != "crashed":
                await asyncio.sleep(0.01)
        assert desk.ledger.entries() == ()
        assert text_of(await desk.ask(a)) == "one two" and desk.state(a) == READY

    drive(home, body)


def test_one_that_dies_while_it_comes_back_is_told_and_loads_again(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", return_fault="kill")
        assert await desk.residency.park(a)
        answer = await desk.ask(a)
        assert isinstance(answer[-1], Failed) and "killed from outside" in answer[-1].message
        assert desk.ledger.entries() == ()
        assert text_of(await desk.ask(a)) == "one two" and desk.state(a) == READY

    drive(home, body)


def test_a_return_that_the_worker_refuses_leaves_it_parked(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", return_fault="refuse")
        assert await desk.residency.park(a)
        answer = await desk.ask(a)
        assert isinstance(answer[-1], Failed) and answer[-1].message == "Echo was asked to refuse."
        assert desk.state(a) == PARKED and desk.card.used("cpu") == 600 * MB

    drive(home, body)


def test_a_return_that_does_not_fit_is_refused_with_numbers_and_stays_parked(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        assert await desk.residency.park(a)
        desk.card.leak = 700 * MB  # a game was started
        answer = await desk.ask(a)
        assert isinstance(answer[-1], Failed)
        assert answer[-1].message == "A needs 0.6 GB of memory of cuda:0, and 0.3 GB can be had."
        assert desk.state(a) == PARKED
        desk.card.leak = 0
        assert text_of(await desk.ask(a)) == "one two"

    drive(home, body)


def test_unloading_while_it_comes_back_ends_both(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", move_seconds=0.5)
        assert await desk.residency.park(a)
        task = asyncio.create_task(desk.ask(a))
        while a.state != "returning":
            await asyncio.sleep(0.01)
        await desk.residency.unload(a)
        assert isinstance((await asyncio.wait_for(task, 5))[-1], Failed)
        assert desk.ledger.entries() == () and not desk.residency.supervisor.residents

    drive(home, body)


def test_memory_that_does_not_come_back_by_parking_costs_the_process(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.vram.came_back, "__defaults__", (0.3,))

    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        pid = a.child.pid  # type: ignore[union-attr]
        used = desk.card.used
        desk.card.used = lambda device: 600 * MB if device == CARD else used(device)  # type: ignore[method-assign]
        assert not await desk.residency.park(a)
        assert not psutil.pid_exists(pid) and desk.ledger.entries() == ()

    drive(home, body)


def test_unload_says_what_came_back_and_whether_all_did(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.vram.came_back, "__defaults__", (0.3,))

    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        assert (await desk.residency.unload(a))["cuda_bytes"] == 600 * MB
        desk.card.total["cpu"] = 0
        await desk.load("B")
        desk.card.total[CARD] = 1400 * MB
        desk.card.leak = 0
        b_used = desk.card.used

        def leaking(device: str) -> int:  # the driver keeps 400 MB of what is gone
            return max(b_used(device), 400 * MB) if device == CARD else 0

        desk.card.used = leaking  # type: ignore[method-assign]
        await desk.load("C", 900)
        assert notices(desk.seen) == ["B was unloaded to make room: only 0.2 GB came back."]

    drive(home, body)


# When idle


@pytest.mark.parametrize(
    ("rule", "state"),
    [(WhenIdle("park", 0), "parked"), (WhenIdle("unload", 0), "unloaded"),
     (WhenIdle("nothing", 0), "ready"), (WhenIdle("park", 3600), "ready")],
)  # fmt: skip
def test_what_nobody_uses_is_treated_as_settled(home: Path, rule: WhenIdle, state: str) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        on_cpu = await desk.load("B", 0)
        await desk.residency.look_for_idle()
        assert a.state == state and on_cpu.state == "ready"

    drive(home, body, when_idle=lambda: rule)


def test_what_cannot_be_parked_is_never_unloaded_for_being_idle(home: Path) -> None:
    async def body(desk: Desk) -> None:
        desk.card.total["cpu"] = 100 * MB
        a = await desk.load("A")
        await desk.residency.look_for_idle()
        assert desk.state(a) == READY

    drive(home, body, when_idle=lambda: WhenIdle("park", 0))


# Out of memory while loading


def test_memory_that_runs_out_while_loading_shrinks_what_was_automatic_once(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A", fault="tight")
        assert isinstance(desk.seen[-1], Done) and a.options.get("room") is None
        assert a.as_loaded["room"] == 1
        assert notices(desk.seen) == [
            "Memory ran out, so A is loaded with a room of 1, which was left to Werkbank."
        ]
        assert [e.id for e in desk.ledger.entries()] == [a.id]
        hopeless = await desk.load("B", 100, fault="oom")
        assert isinstance(desk.seen[-1], Failed) and desk.seen[-1].out_of_memory
        assert len(notices(desk.seen)) == 1 and hopeless.state == "failed"
        chosen = await desk.load("C", 100, fault="tight", room=7)
        assert isinstance(desk.seen[-1], Failed) and not notices(desk.seen)
        assert not chosen.shrunk and len(desk.ledger.entries()) == 1

    drive(home, body)


def test_a_worker_is_told_what_it_may_take(home: Path) -> None:
    async def body(desk: Desk) -> None:
        a = await desk.load("A")
        assert await desk.residency.grant(a) == 1000 * MB
        b = await desk.load("B", 0)
        assert await desk.residency.grant(b) == 0

    drive(home, body)
