"""Who runs, who waits, at which position. One gate in front of generation, for page, API and demo.

Pure asyncio, no thread and no clock but for the announcements. A lane is one resident with its
slots. Turns go in rounds, one of each visitor in a round; who comes anew stands in the next round,
before those that were served in this one. So one visitor with twenty requests delays another's
first by no more than the turn that runs already, and no stream of newcomers delays anybody for
ever (start-time fair queueing, Goyal et al. 1996, with turns instead of bytes). Guests, visitors
of a shared demo, are called only where nobody else waits. All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

ROOM = 60  # waiting, over all lanes
PER_VISITOR = 20  # waiting, of one visitor, over all lanes
GUEST_ROOM = 30  # of `ROOM`, for all guests together
ANNOUNCE = 2.0  # seconds between two tellings of an unchanged position
FIRST_GUESS = 5.0  # seconds that a turn takes, before one was seen
LONGEST_RETRY = 60.0  # seconds
LATER = 2**62  # more than any number of a turn


class Busy(Exception):
    """No more can wait. `str` is two sentences; `retry_after` is in whole seconds."""

    def __init__(self, sentence: str, retry_after: float) -> None:
        super().__init__(sentence)
        self.sentence, self.retry_after = sentence, retry_after


class Ticket:
    """A place in a lane. `leave` it always, in a finally, also when it never ran.

    `position` is 0 while it is its turn, otherwise its place among the waiting, from 1.
    """

    def __init__(
        self, gate: Gate, lane: str, visitor: str, number: int, round: int, guest: bool = False
    ) -> None:
        self.gate, self.lane, self.visitor, self.guest = gate, lane, visitor, guest
        self.number, self.round = number, round  # when it came
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
            async with asyncio.timeout(ANNOUNCE):  # wait_for of Python 3.11 can lose a cancel
                await self._moved.wait()
        except TimeoutError:
            return  # nothing moved: the same position is told again


@dataclass
class Line:
    """Who waits, in the order of arrival; `queue` is the order in which they will be called."""

    round: int = 0  # of the turn that began last
    waiting: list[Ticket] = field(default_factory=list)
    # Of the last turn of a visitor: its round, and which turn of all it was.
    served: dict[str, tuple[int, int]] = field(default_factory=dict)

    def queue(self) -> list[tuple[int, Ticket]]:
        """The waiting with their rounds, in the order in which they will be called.

        The round of a ticket is the one after its arrival, and after its visitor's ticket before
        it; within a round whoever was served longest ago comes first. Nothing but an arrival can
        put somebody back.
        """
        rounds: dict[int, list[Ticket]] = {}
        before = {visitor: round for visitor, (round, _) in self.served.items()}
        for ticket in self.waiting:
            round = max(ticket.round, before.get(ticket.visitor, 0)) + 1
            rounds.setdefault(round, []).append(ticket)
            before[ticket.visitor] = round
        last = {visitor: turn for visitor, (_, turn) in self.served.items()}
        order: list[tuple[int, Ticket]] = []
        for round in sorted(rounds):
            for ticket in sorted(rounds[round], key=lambda t: (last.get(t.visitor, 0), t.number)):
                last[ticket.visitor] = LATER + len(order)
                order.append((round, ticket))
        return order

    def call(self, turn: int) -> Ticket:
        """Take the first one out; `turn` numbers the turns of all."""
        self.round, ticket = self.queue()[0]
        self.waiting.remove(ticket)
        self.served[ticket.visitor] = self.round, turn
        return ticket

    def forget(self) -> None:
        """Visitors that are not here and were served in an earlier round are as good as new."""
        here = {ticket.visitor for ticket in self.waiting}
        self.served = {
            visitor: turn
            for visitor, turn in self.served.items()
            if visitor in here or turn[0] >= self.round
        }


@dataclass
class Lane:
    """One resident: so many may run at once. Guests stand in a line of their own, behind."""

    slots: int
    running: dict[Ticket, float] = field(default_factory=dict)  # and when it began
    own: Line = field(default_factory=Line)
    guests: Line = field(default_factory=Line)

    def line(self, guest: bool) -> Line:
        return self.guests if guest else self.own

    @property
    def waiting(self) -> list[Ticket]:
        return self.own.waiting + self.guests.waiting


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
        self._turn_seconds: dict[str, float] = {}  # by lane, for as long as the page lives

    def enter(
        self,
        lane: str,
        visitor: str,
        slots: int = 1,
        per_visitor: int | None = None,
        *,
        guest: bool = False,
    ) -> Ticket:
        """Take a place. Raises Busy where no more can wait, all in all or of this visitor.

        `slots` is how many of the lane may run at once; `per_visitor` overrides the gate's own
        number. A `guest` waits behind all who are none, and guests never fill the whole room.
        """
        here = self._lanes.setdefault(lane, Lane(slots))
        here.slots = slots
        if here.waiting or len(here.running) >= slots:
            most = self.per_visitor if per_visitor is None else per_visitor
            self._check_room(lane, visitor, most, guest)
        line = here.line(guest)
        ticket = Ticket(self, lane, visitor, next(self._numbers), line.round, guest)
        line.waiting.append(ticket)
        self._advance(here)
        return ticket

    def snapshot(self) -> dict[str, int]:
        """How many run and how many wait, over all lanes."""
        lanes = self._lanes.values()
        return {
            "running": sum(len(lane.running) for lane in lanes),
            "waiting": sum(len(lane.waiting) for lane in lanes),
        }

    def _check_room(self, key: str, visitor: str, per_visitor: int, guest: bool) -> None:
        waiting = [ticket for lane in self._lanes.values() for ticket in lane.waiting]
        own = sum(ticket.visitor == visitor for ticket in waiting)
        guests = sum(ticket.guest for ticket in waiting)
        full = len(waiting) >= self.room or (guest and guests >= GUEST_ROOM)
        if not full and own < per_visitor:
            return
        lane = self._lanes[key]
        turns = (len(lane.waiting) + len(lane.running)) / lane.slots
        each = self._turn_seconds.get(key, FIRST_GUESS)
        seconds = math.ceil(min(LONGEST_RETRY, each * turns))
        many = len(waiting) if full else own
        raise Busy(
            f"Werkbank is busy: {many} request{'s' * (many != 1)} {'' if full else 'of yours '}"
            f"wait{'s' * (many == 1)} already. Try again in about {seconds} s.",
            max(1, seconds),
        )

    def _leave(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.lane]
        began = lane.running.pop(ticket, None)
        if began is None:
            lane.line(ticket.guest).waiting.remove(ticket)
        else:
            took, before = self.clock() - began, self._turn_seconds.get(ticket.lane)
            self._turn_seconds[ticket.lane] = took if before is None else before * 0.7 + took * 0.3
        self._advance(lane)
        if not lane.running and not lane.waiting:
            del self._lanes[ticket.lane]

    def _advance(self, lane: Lane) -> None:
        """Call whoever is next while there are slots, then tell the others where they stand."""
        while lane.waiting and len(lane.running) < lane.slots:
            line = lane.own if lane.own.waiting else lane.guests
            ticket = line.call(next(self._numbers))
            lane.running[ticket] = self.clock()
            ticket._move(0)
        queue = []
        for line in (lane.own, lane.guests):
            line.forget()
            queue += line.queue()
        for position, (_, ticket) in enumerate(queue, 1):
            ticket._move(position)
