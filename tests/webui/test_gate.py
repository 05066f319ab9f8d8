"""Turns are fair, waiters that vanish cost nothing, and overload is answered at once."""

import asyncio
import random
import time

import pytest

from webui import gate as gate_module
from webui.gate import Busy, Gate

EMPTY = {"running": 0, "waiting": 0}


@pytest.fixture
def gate():
    return Gate()


def positions(*tickets):
    return [t.position for t in tickets]


def test_with_a_free_slot_it_is_ones_turn_at_once(gate):
    a, b, c = (gate.enter("m", v, slots=2) for v in "abc")
    assert positions(a, b, c) == [0, 0, 1]
    assert gate.snapshot() == {"running": 2, "waiting": 1}
    a.leave()
    assert positions(b, c) == [0, 0]


def test_more_slots_call_more_of_the_waiting(gate):
    a, b = gate.enter("m", "a"), gate.enter("m", "b")
    assert positions(a, b, gate.enter("m", "c", slots=3)) == [0, 0, 0]


def test_a_busy_lane_remembers_only_who_matters(gate):
    now = gate.enter("m", "first")
    for n in range(1000):
        following = gate.enter("m", f"v{n}")
        now.leave()
        now = following
    assert len(gate._lanes["m"].own.served) < 5


def test_lanes_do_not_wait_for_each_other(gate):
    assert positions(gate.enter("m", "a"), gate.enter("n", "a"), gate.enter("n", "b")) == [0, 0, 1]


def test_turns_go_round_by_visitor(gate):
    a = [gate.enter("m", "a") for _ in range(4)]
    b = [gate.enter("m", "b") for _ in range(2)]
    c = [gate.enter("m", "c") for _ in range(2)]
    waiting, order = {*a, *b, *c}, []
    while waiting:
        [now] = [t for t in waiting if t.position == 0]
        order.append(now.visitor)
        waiting.remove(now)
        now.leave()
    assert order == list("abcabcaa")
    assert gate.snapshot() == EMPTY


def test_twenty_requests_of_one_delay_anothers_first_by_one_turn_at_most(gate):
    greedy = [gate.enter("m", "greedy") for _ in range(20)]
    greedy[0].leave()
    assert greedy[1].position == 0
    late = gate.enter("m", "late")
    assert late.position == 1
    greedy[1].leave()
    assert late.position == 0


def test_a_stream_of_newcomers_does_not_starve_anyone(gate):
    first, second = gate.enter("m", "a"), gate.enter("m", "a")
    now, ran = first, 0
    newcomer = gate.enter("m", "n0")
    while second.position and ran < 50:
        ran += 1
        now.leave()
        now = newcomer if newcomer.position == 0 else second
        newcomer = gate.enter("m", f"n{ran}")
    assert ran == 2


def in_order(tickets):
    waiting = sorted((t for t in tickets if t.position), key=lambda t: t.position)
    assert positions(*waiting) == list(range(1, len(waiting) + 1))
    return waiting


def test_nobody_is_put_back_but_by_arrivals_and_the_first_is_the_next():
    for seed in range(300):
        dice = random.Random(seed)
        gate, slots, tickets = Gate(), dice.choice((1, 1, 2, 3)), []
        for _ in range(120):
            waiting = in_order(tickets)
            runs = [t for t in tickets if not t.left and t.position == 0]
            if dice.random() < 0.5 and len(waiting) < 20:
                tickets.append(gate.enter("m", dice.choice("abcde"), slots))
            elif runs and dice.random() < 0.7:
                dice.choice(runs).leave()
                assert not waiting or waiting[0].position == 0, seed
            elif waiting:
                dice.choice(waiting).leave()
            tickets = [t for t in tickets if not t.left]
            after = {t: t.position for t in tickets}
            if len(tickets) <= len(waiting) + len(runs):  # nobody came
                assert all(after[t] <= n for n, t in enumerate(waiting, 1) if t in after), seed
            assert len(tickets) - len(in_order(tickets)) <= slots
        for ticket in tickets:
            ticket.leave()
        assert gate.snapshot() == EMPTY


def test_whoever_gives_up_many_places_keeps_a_fair_one(gate):
    for n in range(3):
        gate.enter("m", f"v{n}")
    many = [gate.enter("m", "many") for _ in range(10)]
    other = gate.enter("m", "v0")
    for ticket in many[:9]:
        ticket.leave()
    assert positions(many[9], other) == [3, 4]


def test_leaving_twice_or_before_ones_turn_frees_one_place(gate):
    a, b, c = (gate.enter("m", v) for v in "abc")
    b.leave()
    b.leave()
    assert positions(a, c) == [0, 1]
    a.leave()
    a.leave()
    assert (c.position, gate.snapshot()) == (0, {"running": 1, "waiting": 0})
    c.leave()
    assert gate.snapshot() == EMPTY


def test_a_full_room_says_busy_and_when_to_come_back():
    gate = Gate(room=3, per_visitor=2)
    tickets = [gate.enter("m", f"v{n}") for n in range(4)]
    with pytest.raises(Busy, match=r"3 requests wait already. Try again in about 20 s\.") as e:
        gate.enter("m", "v9")
    assert e.value.retry_after == 20  # four ahead, five seconds each until one was seen
    gate.enter("other", "v9").leave()  # a free lane needs no room
    tickets[0].leave()
    gate.enter("m", "v9")


def test_one_visitor_may_only_have_so_many_waiting():
    gate = Gate(per_visitor=3)
    for _ in range(4):
        gate.enter("m", "a")
    with pytest.raises(Busy, match="3 requests of yours wait already"):
        gate.enter("m", "a")
    gate.enter("m", "guest", per_visitor=1)
    with pytest.raises(Busy, match="1 request of yours waits already"):
        gate.enter("m", "guest", per_visitor=1)
    gate.enter("m", "b")


def test_the_advice_when_to_come_back_learns_how_long_turns_take():
    now = [0.0]
    gate = Gate(room=1, clock=lambda: now[0])
    for _ in range(30):
        ticket = gate.enter("m", "a")
        other = gate.enter("m", "b")
        now[0] += 12
        ticket.leave()
        now[0] += 12
        other.leave()
    gate.enter("m", "a"), gate.enter("m", "b")
    with pytest.raises(Busy) as busy:
        gate.enter("m", "c")
    assert busy.value.retry_after == 24  # one runs, one waits


def test_the_position_is_told_at_once_at_each_change_and_at_its_turn(gate):
    async def main():
        a, b, c = (gate.enter("m", v) for v in "abc")
        told = []

        async def wait():
            async for position in c.positions():
                told.append(position)

        task = asyncio.create_task(wait())
        for ticket, expected in ((None, [2]), (a, [2, 1]), (b, [2, 1, 0])):
            if ticket:
                ticket.leave()
            await asyncio.sleep(0.01)
            assert told == expected
        await task

    asyncio.run(main())


def test_an_unchanged_position_is_told_again(gate, monkeypatch):
    assert gate_module.ANNOUNCE <= 2.0
    monkeypatch.setattr(gate_module, "ANNOUNCE", 0.05)

    async def main():
        gate.enter("m", "a")
        told = []
        async for position in gate.enter("m", "b").positions():
            told.append((position, time.monotonic()))
            if len(told) == 4:
                break
        assert [position for position, _ in told] == [1, 1, 1, 1]
        assert 0.1 < told[-1][1] - told[0][1] < 1

    asyncio.run(main())


def test_a_cancelled_waiter_frees_its_place_at_once(gate):
    async def main():
        gate.enter("m", "a")
        waiter = gate.enter("m", "b")
        behind = gate.enter("m", "c")

        async def wait():
            async for _ in waiter.positions():
                pass

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (behind.position, gate.snapshot()) == (1, {"running": 1, "waiting": 1})

    asyncio.run(main())


def test_a_place_that_somebody_gave_up_does_not_run(gate):
    async def main():
        gate.enter("m", "a")
        waiter = gate.enter("m", "b")
        asyncio.get_running_loop().call_later(0.01, waiter.leave)
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="given up. Enter again"):
            async for _ in waiter.positions():
                pass
        assert time.monotonic() - started < 1

    asyncio.run(main())


class Crowd:
    """Visitors at a gate with two slots, turns of `seconds`; counts what each of them saw."""

    def __init__(self, seconds=0.01):
        self.gate, self.seconds = Gate(), seconds
        self.served, self.refused, self.most, self.running = [], [], 0, 0
        self.first_word = []  # seconds until a position, a turn or a refusal

    async def visit(self, visitor):
        started = time.monotonic()
        try:
            ticket = self.gate.enter("m", visitor, slots=2)
        except Busy as busy:
            self.first_word.append(time.monotonic() - started)
            self.refused.append(busy.retry_after)
            return
        try:
            first = True
            async for _ in ticket.positions():
                if first:
                    self.first_word.append(time.monotonic() - started)
                first = False
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(self.seconds)
            finally:
                self.running -= 1
            self.served.append(visitor)
        finally:
            ticket.leave()


@pytest.mark.alone
def test_fifty_visitors_and_a_burst_of_two_hundred_calls():
    async def main():
        crowd = Crowd()
        people = [crowd.visit(f"person {n}") for n in range(50)]
        calls = [crowd.visit(f"client {n % 40}") for n in range(200)]
        await asyncio.gather(*people, *calls)
        assert (len(crowd.served), len(crowd.refused)) == (62, 188)
        assert sum(v.startswith("person") for v in crowd.served) == 50
        assert crowd.most == 2
        assert max(crowd.first_word) < 1.0
        assert min(crowd.refused) >= 1
        assert crowd.gate.snapshot() == EMPTY

    asyncio.run(main())


def test_sixty_clients_that_vanish_leave_nothing_behind():
    async def main():
        crowd = Crowd(seconds=5)
        tasks = [asyncio.create_task(crowd.visit(f"v{n % 25}")) for n in range(62)]
        await asyncio.sleep(0.05)
        assert crowd.gate.snapshot() == {"running": 2, "waiting": 60}
        dice = random.Random(7)
        dice.shuffle(tasks)
        for task in tasks:
            task.cancel()
            if dice.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert crowd.gate.snapshot() == EMPTY
        assert crowd.served == []

    asyncio.run(main())


def test_waiting_costs_next_to_nothing():
    async def main():
        crowd = Crowd(seconds=2.5)
        tasks = [asyncio.create_task(crowd.visit(f"v{n}")) for n in range(62)]
        await asyncio.sleep(0.2)
        before = time.process_time()
        await asyncio.sleep(2.2)
        assert time.process_time() - before < 0.15
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_guests_wait_behind_everybody_else(gate):
    running = gate.enter("m", "demo:a", guest=True)
    guests = [gate.enter("m", f"demo:{v}", guest=True) for v in "bc"]
    owner, api = gate.enter("m", "owner"), gate.enter("m", "api")
    assert positions(running, owner, api, *guests) == [0, 1, 2, 3, 4]
    running.leave()
    owner.leave()
    again = gate.enter("m", "owner")
    assert positions(api, again, *guests) == [0, 1, 2, 3]
    for ticket in (api, again):
        ticket.leave()
    assert positions(*guests) == [0, 1]


def test_guests_cannot_fill_the_waiting_room(gate):
    gate.enter("m", "owner")
    for number in range(gate_module.GUEST_ROOM):
        gate.enter("m", f"demo:{number}", guest=True)
    with pytest.raises(Busy, match="30 requests wait"):
        gate.enter("m", "demo:one more", guest=True)
    assert gate.enter("m", "page").position == 1


def test_turns_of_guests_are_fair_among_them(gate):
    gate.enter("m", "owner").leave()
    now = gate.enter("m", "owner")
    many = [gate.enter("m", "demo:many", guest=True) for _ in range(4)]
    one = gate.enter("m", "demo:one", guest=True)
    assert one.position == 2 and positions(*many) == [1, 3, 4, 5]
    now.leave()
    assert positions(many[0], one) == [0, 1]
