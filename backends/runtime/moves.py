"""Models between the GPU and RAM: parked where others need the place, brought back when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.events import Done, Event, Failed
from backends.runtime.resident import Resident

if TYPE_CHECKING:
    from backends.runtime.supervisor import MakeRoom

Outcome = Done | Failed | None


class Moves:
    """Each move is a task of its own and goes on to its end, whoever stops waiting for it: half a
    model on either side would be of no use. The resident's lock is held all the while.

    A move that its worker refuses leaves the model where it was; a worker that dies on the way is a
    crash like any other.
    """

    def __init__(
        self,
        make_room: MakeRoom,
        grant: Callable[[Resident], Awaitable[int]],
        say: Callable[[Resident, str], None],
    ) -> None:
        self.make_room, self.grant, self.say = make_room, grant, say
        self._under_way: set[asyncio.Task[Outcome]] = set()

    async def park(self, resident: Resident) -> Outcome:
        """Its weights to RAM. Done when they are there; Failed where the worker could not; None
        where it is no longer idle."""
        return await asyncio.shield(self._begin(self._park(resident)))

    async def bring_back(self, resident: Resident) -> AsyncGenerator[Event, None]:
        """Notices of what has to go for it, then Done or Failed; nothing where it is not parked
        by the time that this begins."""
        told: asyncio.Queue[Event] = asyncio.Queue()
        task = self._begin(self._bring_back(resident, told))
        while not task.done() or not told.empty():
            next_one = asyncio.ensure_future(told.get())
            try:
                await asyncio.wait({next_one, task}, return_when=asyncio.FIRST_COMPLETED)
                if next_one.done():
                    yield next_one.result()
            finally:
                next_one.cancel()
        if (outcome := task.result()) is not None:
            yield outcome

    def _begin(self, work: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _park(self, resident: Resident) -> Outcome:
        async with resident.loading:
            child = resident.child
            if resident.state != "ready" or resident.running or not (child and child.alive):
                return None
            self.say(resident, "parking")
            outcome = await _outcome(child.call("park"))
            if resident.state != "parking":  # it died, or was unloaded
                return outcome
            if isinstance(outcome, Done):
                child.memory = dict(outcome.usage.get("memory", {}))
            self.say(resident, "parked" if isinstance(outcome, Done) else "ready")
            return outcome

    async def _bring_back(self, resident: Resident, told: asyncio.Queue[Event]) -> Outcome:
        async with resident.loading:
            child = resident.child
            if resident.state != "parked" or not (child and child.alive):
                return None
            self.say(resident, "returning")
            try:
                async for event in self.make_room(resident):
                    told.put_nowait(event)
                grant = await self.grant(resident)
            except Refused as refused:
                if resident.state != "returning":
                    return None
                self.say(resident, "parked")
                return refused.as_event()
            if resident.state != "returning":
                return None
            started = time.monotonic()
            outcome = await _outcome(child.call("unpark", grant_bytes=grant))
            if resident.state != "returning":
                return outcome
            if isinstance(outcome, Done):
                child.memory = dict(outcome.usage.get("memory", {}))
                resident.return_seconds = time.monotonic() - started
            self.say(resident, "ready" if isinstance(outcome, Done) else "parked")
            return outcome


async def _outcome(call: Any) -> Done | Failed:
    last: Event = Failed("The model process said nothing.", "Send it again.")
    async for event in call.events():
        last = event
    assert isinstance(last, Done | Failed)
    return last
