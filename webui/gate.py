"""Who runs, who waits, at which position. One gate in front of generation, for page, API and demo.

Pure asyncio, no thread and no clock but for the announcements. A lane is one resident with its
slots. Turns go round by visitor: whoever has fewest running comes first, then whoever has waited
longest since its last turn ended, so that one visitor with twenty requests delays another's first
by no more than the turn that runs already. All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

ROOM = 60  # waiting, over all lanes
PER_VISITOR = 20  # waiting, of one visitor, over all lanes
ANNOUNCE = 2.0  # seconds between two tellings of an unchanged position
FIRST_GUESS = 5.0  # seconds that a turn takes, before one was seen
LONGEST_RETRY = 60.0  # seconds


class Busy(Exception):
    """No more can wait. `str` is two sentences; `retry_after` is in whole seconds."""

    def __init__(self, sentence: str, retry_after: float) -> None:
        super().__init__(sentence)
        self.sentence, self.retry_after = sentence, retry_after


class Ticket:
    """A place in a lane. `leave` it always, in a finally, also when it never ran.

    `position` is 0 while it is its turn, otherwise its place among the waiting, from 1.
    """

    def __init__(self, gate: Gate, lane: str, visitor: str, number: int) -> None:
        self.gate, self.lane, self.visitor, self.number = gate, lane, visitor, number
        self.position = 0
        self.left = False
        self._moved = asyncio.Event()

    async def positions(self) -> AsyncIterator[int]:
        """The position now, at each change, and every two seconds; ends with 0, its turn.

        A cancelled wait gives the place up at once. Raises RuntimeError where it was given up.
        """
        try:
            while not self.left:
                self._moved.clear()
                position = self.position
                yield position
                if position == 0:
                    return
                await self._wait_for_move()
        except asyncio.CancelledError:
            self.leave()
            raise
        raise RuntimeError("This place in the queue was given up. Enter again.")

    def leave(self) -> None:
        """Give the place, or the turn, to the next. A second call changes nothing."""
        if not self.left:
            self.left = True
            self._moved.set()
            self.gate._leave(self)

    def _move(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self._moved.set()

    async def _wait_for_move(self) -> None:
        try:
            await asyncio.wait_for(self._moved.wait(), ANNOUNCE)
        except TimeoutError:
            return  # nothing moved: the same position is told again


@dataclass
class Lane:
    """One resident: so many may run at once, the others wait in the order of `queue`."""

    slots: int
    running: dict[Ticket, float] = field(default_factory=dict)  # and when it began
    waiting: list[Ticket] = field(default_factory=list)  # in the order of arrival
    ended: dict[str, int] = field(default_factory=dict)  # when a waiting visitor's last turn did
    turn_seconds: float = FIRST_GUESS

    def queue(self) -> list[Ticket]:
        """The waiting in the order in which they will be called.

        A visitor's n-th request stands in round n, counted on from those it has running. Within a
        round come first the visitors that run already (their round began earlier), then the others
        by how long they have waited unserved.
        """
        busy = Counter(ticket.visitor for ticket in self.running)
        seen: Counter[str] = Counter()
        since: dict[str, int] = {}
        keyed = []
        for ticket in self.waiting:
            visitor = ticket.visitor
            since.setdefault(visitor, max(ticket.number, self.ended.get(visitor, 0)))
            turn = busy[visitor] + seen[visitor]
            keyed.append(((turn, not busy[visitor], since[visitor], ticket.number), ticket))
            seen[visitor] += 1
        return [ticket for _, ticket in sorted(keyed, key=lambda pair: pair[0])]


class Gate:
    """Lanes by key. `room` bounds all that wait, `per_visitor` what one visitor may have waiting.

    `clock` measures how long turns take, for the advice when to come back.
    """

    def __init__(
        self,
        room: int = ROOM,
        per_visitor: int = PER_VISITOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.room, self.per_visitor, self.clock = room, per_visitor, clock
        self._lanes: dict[str, Lane] = {}
        self._numbers = itertools.count(1)

    def enter(
        self, lane: str, visitor: str, slots: int = 1, per_visitor: int | None = None
    ) -> Ticket:
        """Take a place. Raises Busy where no more can wait, all in all or of this visitor.

        `slots` is how many of the lane may run at once; `per_visitor` overrides the gate's own
        number, as for guests of a shared page.
        """
        here = self._lanes.setdefault(lane, Lane(slots))
        here.slots = slots
        if here.waiting or len(here.running) >= slots:
            self._check_room(
                here, visitor, self.per_visitor if per_visitor is None else per_visitor
            )
        ticket = Ticket(self, lane, visitor, next(self._numbers))
        here.waiting.append(ticket)
        self._advance(here)
        return ticket

    def snapshot(self) -> dict[str, int]:
        """How many run and how many wait, over all lanes."""
        lanes = self._lanes.values()
        return {
            "running": sum(len(lane.running) for lane in lanes),
            "waiting": sum(len(lane.waiting) for lane in lanes),
        }

    def _check_room(self, here: Lane, visitor: str, per_visitor: int) -> None:
        waiting = [ticket for lane in self._lanes.values() for ticket in lane.waiting]
        own = sum(ticket.visitor == visitor for ticket in waiting)
        if len(waiting) < self.room and own < per_visitor:
            return
        ahead = len(here.waiting) + len(here.running)
        seconds = math.ceil(min(LONGEST_RETRY, here.turn_seconds * ahead / here.slots))
        reason = (
            f"{len(waiting)} requests are waiting already"
            if len(waiting) >= self.room
            else f"you have {own} requests waiting already"
        )
        raise Busy(f"Werkbank is busy: {reason}. Try again in about {seconds} s.", max(1, seconds))

    def _leave(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.lane]
        began = lane.running.pop(ticket, None)
        if began is None:
            lane.waiting.remove(ticket)
        else:
            lane.turn_seconds += 0.3 * (self.clock() - began - lane.turn_seconds)
            lane.ended[ticket.visitor] = next(self._numbers)
        self._advance(lane)
        if not lane.running and not lane.waiting:
            del self._lanes[ticket.lane]

    def _advance(self, lane: Lane) -> None:
        """Call whoever is next while there are slots, then tell the others where they stand."""
        while lane.waiting and len(lane.running) < lane.slots:
            ticket = lane.queue()[0]
            lane.waiting.remove(ticket)
            lane.running[ticket] = self.clock()
            ticket._move(0)
        present = {ticket.visitor for ticket in lane.waiting}
        lane.ended = {visitor: n for visitor, n in lane.ended.items() if visitor in present}
        for position, ticket in enumerate(lane.queue(), 1):
            ticket._move(position)
