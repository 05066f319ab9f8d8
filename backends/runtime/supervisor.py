"""The page's side of the workers: start, watch, cancel, restart, keep a warm spare.

A `Resident` is one model that the user wants in memory; its process may come and go. Calls are
never replayed: half an answer was shown. After a crash the next call loads the model again, three
times in ten minutes, then the resident stays down and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

from backends import BACKENDS
from backends.base import Refused
from backends.events import Done, Event, Failed, Notice, Progress
from backends.runtime.child import Call, Child
from backends.runtime.frames import RECYCLED
from backends.runtime.moves import Moves
from backends.runtime.resident import RESTART_SPAN, RESTARTS, Resident, shrink
from backends.runtime.spare import Spare

SILENT = 30.0  # seconds without a sign of life: "not responding"
SILENT_LOAD = 180.0  # a library may hold everything up while it opens a large file
ATTEMPTS = 3  # to find a model there that others need the place of
AWAY = Failed(
    "Other models took this one's place each time that it came back.", "Send it again.",
    refused=True,
)  # fmt: skip
UNLOADED = Failed("The model was unloaded meanwhile.", "Send it again.", refused=True)


MakeRoom = Callable[[Resident], AsyncGenerator[Event, None]]


async def room_for_all(resident: Resident) -> AsyncGenerator[Event, None]:
    """No ledger: everything may load."""
    for event in tuple[Event, ...]():
        yield event


async def without_limit(resident: Resident) -> int:
    """No ledger: a process may take of the GPU what it gets."""
    return 0


class Supervisor:
    """Owner of every worker process. Made and used in the server's event loop only."""

    def __init__(
        self,
        folder: Path,
        *,
        spare: bool = True,
        silent: float = SILENT,
        make_room: MakeRoom = room_for_all,
        on_change: Callable[[Resident], None] = lambda resident: None,
        on_spare: Callable[[Child | None], None] = lambda spare: None,
        grant: Callable[[Resident], Awaitable[int]] = without_limit,
    ) -> None:
        """`make_room` is asked before every load and return, a restart included: it yields notices
        of what it moves, or raises Refused; a spare that the load takes is the resident's child by
        then. `grant` says how many bytes of the GPU its process may take, 0 for no limit.
        `on_change` hears of every new state, `on_spare` of a new spare, then once a second, and
        with None when it is taken or gone."""
        self.folder, self.silent = folder, silent
        self.make_room, self.on_change = make_room, on_change
        self.grant = grant
        self.moves = Moves(make_room, grant, self._state)
        self.residents: dict[str, Resident] = {}
        self.warm = Spare(folder, spare, on_spare)
        self._counter = 0
        self._settling: set[asyncio.Task[None]] = set()
        self._ended: set[Child] = set()  # killed, and no resident's child any more
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch. The first spare comes a moment later, so that the page starts first."""
        self._watch = asyncio.get_running_loop().create_task(self._watch_forever())

    async def stop(self) -> None:
        """End every worker; at most a few seconds."""
        if self._watch:
            self._watch.cancel()
        children = [r.child for r in self.residents.values() if r.child]
        children += [self.warm.child] if self.warm.child else []
        await asyncio.gather(*(c.stop() for c in {*children, *self._ended} if c.alive))

    @property
    def spare(self) -> Child | None:
        return self.warm.child

    @property
    def spare_state(self) -> str:
        return self.warm.state

    async def drop_spare(self) -> None:
        await self.warm.drop()

    def status(self) -> list[dict[str, Any]]:
        """Every worker as plain JSON, the spare last."""
        return [r.status() for r in self.residents.values()] + self.warm.status()

    # Loading

    def admit(self, backend: str, model: str, options: dict[str, Any], label: str = "") -> Resident:
        """Make the resident, without loading it yet. Raises Refused for an unknown backend."""
        if backend not in BACKENDS:
            raise Refused(f"There is no backend {backend!r}.", f"Known: {', '.join(BACKENDS)}.")
        self._counter += 1
        plain = unicodedata.normalize("NFKD", label or model).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:40] or backend
        resident = Resident(f"{slug}-{self._counter}", backend, model, options, label or model)
        self.residents[resident.id] = resident
        self.on_change(resident)
        return resident

    async def load(self, resident: Resident) -> AsyncGenerator[Event, None]:
        """Bring it into memory: Progress and Notice events, then Done or Failed.

        Closing the iterator early ends the process: half a model is of no use. One that is parked
        comes back instead, to its end even then.
        """
        if resident.state in ("parking", "parked", "returning"):
            returned: Event | None = None
            async with contextlib.aclosing(self.moves.bring_back(resident)) as events:
                async for returned in events:
                    yield returned
            if isinstance(returned, Done | Failed):
                return
        async with resident.loading:
            if resident.usable and resident.child:
                yield Done(usage={"seconds": resident.seconds, "memory": resident.child.memory})
                return
            if resident.id not in self.residents:  # unloaded while this waited, or its run did
                yield UNLOADED
                return
            if resident.child and resident.child.alive:  # stuck: two processes for one are too many
                stuck, resident.child = resident.child, None  # its end is no crash of the next one
                self._end(stuck, "hung")
            self._state(resident, "loading")
            try:
                async with contextlib.aclosing(self._bring_in(resident)) as events:
                    async for event in events:
                        if isinstance(event, Done | Failed):
                            self._loaded(resident, event)
                        yield event
            finally:
                if resident.state == "loading":  # left half-way, or an error of our own
                    self.drop(resident)

    async def _bring_in(self, resident: Resident) -> AsyncGenerator[Event, None]:
        """One attempt, and a second one with less where memory ran out in the first."""
        last: Event | None = None
        async with contextlib.aclosing(self._attempt(resident)) as events:
            async for last in events:
                if not (isinstance(last, Failed) and last.out_of_memory):
                    yield last
        if not (isinstance(last, Failed) and last.out_of_memory):
            return
        said = shrink(resident, on_gpu=await self.grant(resident) > 0)
        if not said:
            yield last
            return
        child, resident.child = resident.child, None  # its end is no crash of the next one
        if child:
            await child.stop(grace=0.5)
        yield Notice(said)
        async with contextlib.aclosing(self._attempt(resident)) as events:
            async for event in events:
                yield event

    async def _attempt(self, resident: Resident) -> AsyncGenerator[Event, None]:
        resident.child = spare = self.warm.claim(resident)
        try:
            async for event in self.make_room(resident):
                yield event
            if spare and spare.alive:
                child = spare
                child.rename(resident.id)
            else:
                child = await Child.start(self.folder, resident.id)
        except Refused as refused:
            self.warm.take_back(resident, wanted=resident.id in self.residents)
            yield refused.as_event()
            return
        except OSError as error:
            yield Failed(f"No process could be started ({error.strerror}).",
                         "Close other programs, then load it again.")  # fmt: skip
            return
        grant = await self.grant(resident)
        if resident.id not in self.residents:
            self._end(child, "unloaded")
            yield UNLOADED
            return
        resident.child = child
        child.on_gone = lambda gone: self._gone(resident, gone)
        call = child.call(
            "load", backend=resident.backend, model=resident.model,
            options=resident.as_loaded, grant_bytes=grant,
        )  # fmt: skip
        async with contextlib.aclosing(call.events()) as events:
            async for event in events:
                yield event

    def drop(self, resident: Resident, state: str = "unloaded") -> None:
        """Out of the list, its process ended, at once. `state` says why it is gone."""
        self.residents.pop(resident.id, None)
        self._state(resident, state)
        if resident.child and resident.child.alive:
            self._end(resident.child, resident.child.ending or "stopped")

    def _end(self, child: Child, ending: str) -> None:
        """Kill it, and keep it in sight until it is gone: `stop` waits for it."""
        self._ended = {c for c in self._ended if c.alive} | {child}
        child.ending = ending
        child.kill()

    def _loaded(self, resident: Resident, event: Event) -> None:
        self.warm.wait()
        if isinstance(event, Done):
            resident.seconds = float(event.usage.get("seconds", 0.0))
            if resident.child:  # its next beat is up to a second away
                resident.child.memory = dict(event.usage.get("memory", {}))
            resident.failed = None
            self._state(resident, "ready")
        elif isinstance(event, Failed):
            resident.failed = event
            self.drop(resident, "failed")

    # Running

    async def run(
        self,
        resident: Resident,
        params: dict[str, Any],
        on_call: Callable[[Call], None] = lambda call: None,
        on_free: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[Event, None]:
        """One run; loads first where the process is gone. The last event is Done or Failed.

        Closing the iterator cancels: a flag, then after three seconds the end of the process.
        `on_call` gets the call as soon as there is one: its `cancel()` stops the run, and the
        iterator still ends with what the run took. After that, `on_free` is called once the worker
        can take the next run, which may be later than the end of the iterator.
        """
        for _ in range(ATTEMPTS):
            async with contextlib.aclosing(self._made_ready(resident)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Failed):
                        return
            grant = await self.grant(resident)
            child = resident.child
            if child and resident.usable and not child.leaving:  # else it went again meanwhile
                break
        else:
            yield AWAY
            return
        try:
            call = child.call("run", params=params, grant_bytes=grant)
        except ValueError as error:
            message, _, hint = str(error).partition(". ")
            yield Failed(f"{message}.", hint, refused=True)
            return
        resident.running += 1
        self._state(resident, "busy")
        on_call(call)
        try:
            async for event in call.events():
                yield event
        finally:
            # A task of its own: who is cancelled by anyio (a stream whose client left) is cancelled
            # again at every await, so that nothing after the first would be done.
            settling = asyncio.get_running_loop().create_task(self._settle(resident, call, on_free))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            await asyncio.shield(settling)

    async def _made_ready(self, resident: Resident) -> AsyncGenerator[Event, None]:
        """Loaded, or brought back, where it has to be: Progress and Notice, at last Failed or
        nothing."""
        if resident.child and resident.child.leaving:
            await resident.child.gone.wait()
        if resident.usable:
            return
        try:
            self._allow_restart(resident)
        except Refused as refused:
            yield refused.as_event()
            return
        async with contextlib.aclosing(self.load(resident)) as loading:
            async for event in loading:
                if isinstance(event, Failed | Progress | Notice):
                    yield event

    async def _settle(self, resident: Resident, call: Call, on_free: Callable[[], None]) -> None:
        """Cancel what nobody listens to any more, and wait until the worker is free again."""
        if not call.over.is_set():
            call.cancel()
            with contextlib.suppress(TimeoutError):  # a process stuck in the driver cannot end
                await asyncio.wait_for(call.over.wait(), call.child.grace + 5)
        resident.running -= 1
        self._after_run(resident)
        on_free()

    def _after_run(self, resident: Resident) -> None:
        if resident.running == 0 and resident.state in ("busy", "stuck"):
            self._state(resident, "ready")

    def _allow_restart(self, resident: Resident) -> None:
        if resident.state != "crashed":
            return
        now = time.monotonic()
        recent = [t for t in resident.restarts if now - t < RESTART_SPAN]
        if len(recent) >= RESTARTS:
            log = resident.child.log_path if resident.child else self.folder / "logs"
            minutes = round(RESTART_SPAN / 60)
            raise Refused(
                f"{resident.label} keeps crashing ({len(recent)} restarts in {minutes} minutes).",
                f"Unload it and choose another model or smaller settings. Its log: {log}",
                resident.failed.detail if resident.failed else "",
            )
        resident.restarts.append(now)

    async def unload(self, resident: Resident) -> dict[str, int]:
        """Give the memory back for good: the process ends, which is proof that it is free.

        Returns what came back, in bytes: what it held just before, less what it still holds where
        it would not end (stuck in the driver, say).
        """
        child, held = resident.child, {}
        self._state(resident, "unloaded")
        self.residents.pop(resident.id, None)
        if child and child.alive:
            held = child.memory | {"rss_bytes": child.resident_bytes()}
            child.ending = "unloaded"
            await child.stop(grace=1.0)
            if child.alive:
                left = child.memory | {"rss_bytes": child.resident_bytes()}
                held = {name: max(0, size - left.get(name, 0)) for name, size in held.items()}
        return held

    # Watching

    def _state(self, resident: Resident, state: str) -> None:
        resident.state = state
        self.on_change(resident)

    def _gone(self, resident: Resident, child: Child) -> None:
        if resident.child is not child or resident.state in ("failed", "unloaded"):
            return
        if child.ending == "cancelled" or child.exit_code == RECYCLED:
            # No crash: we killed it, or it answered and ended since its memory did not come back.
            # The next call loads again without being counted, so a request that is too large for
            # the card may be made smaller as often as that takes.
            self._state(resident, "stopped")
        else:
            resident.failed = child.death
            self._state(resident, "crashed")

    async def _watch_forever(self) -> None:
        await asyncio.sleep(1.0)
        while True:
            self._look_for_silence()
            await self.warm.keep(any(r.state == "loading" for r in self.residents.values()))
            await asyncio.sleep(1.0)

    def _look_for_silence(self) -> None:
        now = time.monotonic()
        for resident in self.residents.values():
            child = resident.child
            if not child or not child.alive:
                continue
            moving = resident.state in ("loading", "parking", "returning")
            if moving and now - child.heard > SILENT_LOAD:
                child.ending = "hung"
                child.kill()
            if resident.state not in ("busy", "stuck"):
                continue
            silent = now - child.heard > self.silent
            if silent != (resident.state == "stuck"):
                self._state(resident, "stuck" if silent else "busy")
                if silent:
                    child.tell(
                        f"The model has given no sign of life for {self.silent:.0f} seconds. "
                        "Press Stop to restart it, or wait."
                    )
