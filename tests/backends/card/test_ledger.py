"""Who gets memory: by example, and over thousands of random sequences."""

import random

import pytest

from backends.base import Refused
from backends.card.ledger import GB, Ledger

CARD = "cuda:0"


class Card:
    """A device of `total` bytes; `shown` is what each holder has taken so far."""

    def __init__(self, total=12 * GB):
        self.total, self.shown = total, {}

    def free(self, device):
        return self.total - sum(self.shown.values())


@pytest.fixture
def card():
    return Card()


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def ledger(card, now):
    return Ledger(card.free, {"cuda": 0}, clock=lambda: now[0])


def settle(ledger, card, now, id, size, kind="model", busy=False):
    """A holder that is loaded and idle."""
    card.shown[id] = size
    ledger.add(id=id, label=id.upper(), owner="chat", kind=kind, device=CARD, predicted_bytes=size,
               measured_bytes=size, state="ready")  # fmt: skip
    now[0] += 1
    if busy:
        ledger.set_busy(id, True)


def test_what_fits_goes(ledger):
    verdict = ledger.admit("A", 12 * GB, CARD)
    assert (verdict.go, verdict.refused, verdict.evict) == (True, False, ())


def test_the_reserve_stays_free(card):
    for reserve in ({CARD: GB}, {"cuda": GB}, lambda device: GB):
        ledger = Ledger(card.free, reserve)
        assert ledger.admit("A", 11 * GB, CARD).go
        assert ledger.admit("A", 11 * GB + 1, CARD).refused


def test_the_least_recently_used_goes_first(ledger, card, now):
    settle(ledger, card, now, "a", 4 * GB)
    settle(ledger, card, now, "b", 4 * GB)
    ledger.set_busy("a", True), ledger.set_busy("a", False)
    assert ledger.admit("C", 6 * GB, CARD).evict == ("b",)


def test_a_run_counts_as_use(ledger, card, now):
    settle(ledger, card, now, "a", 4 * GB)
    settle(ledger, card, now, "b", 4 * GB)
    ledger.set_busy("a", True)
    ledger.set_busy("a", False)
    assert ledger.admit("C", 6 * GB, CARD).evict == ("b",)


def test_saying_idle_again_is_no_use(ledger, card, now):
    settle(ledger, card, now, "a", 4 * GB)
    settle(ledger, card, now, "b", 4 * GB)
    ledger.set_busy("a", False)
    assert ledger.admit("C", 6 * GB, CARD).evict == ("a",)


def test_spares_go_before_models(ledger, card, now):
    settle(ledger, card, now, "model", 4 * GB)
    settle(ledger, card, now, "spare", 4 * GB, kind="spare")
    assert ledger.admit("C", 6 * GB, CARD).evict == ("spare",)


def test_nothing_is_unloaded_in_vain(ledger, card, now):
    settle(ledger, card, now, "small", GB)
    settle(ledger, card, now, "large", 9 * GB)
    assert ledger.admit("C", 10 * GB, CARD).evict == ("large",)
    assert ledger.admit("C", 12 * GB, CARD).evict == ("small", "large")


def test_nothing_is_unloaded_where_that_would_not_be_enough(ledger, card, now):
    settle(ledger, card, now, "a", 4 * GB)
    verdict = ledger.admit("C", 13 * GB, CARD)
    assert (verdict.refused, verdict.evict) == (True, ())
    assert verdict.message == (
        "C needs 13.0 GB of memory of cuda:0, and 12.0 GB can be had, "
        "even with A (4.0 GB) unloaded."
    )
    assert "4-bit" in verdict.hint and "CPU" in verdict.hint


def test_jobs_and_the_busy_are_named_and_never_unloaded(ledger, card, now):
    settle(ledger, card, now, "tuning", 6 * GB, kind="job")
    settle(ledger, card, now, "chat", 4 * GB, busy=True)
    verdict = ledger.admit("C", 5 * GB, CARD)
    assert verdict.refused
    assert verdict.hint.startswith(
        "Wait for TUNING (6.0 GB), pause it, wait for CHAT (4.0 GB), use the CPU, or choose "
    )


def test_parked_models_hold_nothing_and_are_not_asked_to_go(ledger, card, now):
    settle(ledger, card, now, "a", 4 * GB)
    ledger.measure("a", 0, state="parked")
    card.shown["a"] = 0
    settle(ledger, card, now, "b", 8 * GB)
    assert ledger.admit("C", 6 * GB, CARD).evict == ("b",)


def test_two_loads_at_once_are_never_promised_the_same_bytes(ledger, card):
    for label, go in (("A", True), ("B", False)):
        assert ledger.admit(label, 7 * GB, CARD).go is go
        if go:
            add(ledger, label, 7 * GB)
    card.shown["A"] = 3 * GB
    ledger.measure("A", 3 * GB, state="loading")
    assert ledger.available(CARD) == 5 * GB
    card.shown["A"] = 6 * GB
    ledger.measure("A", 6 * GB)  # the rest comes with a long conversation: it stays promised
    assert ledger.available(CARD) == 5 * GB


def add(ledger, label, size, kind="model"):
    ledger.add(id=label, label=label, owner="chat", kind=kind, device=CARD, predicted_bytes=size)


def test_a_load_admitted_before_another_one_was_written_down_is_asked_again(ledger):
    assert ledger.admit("A", 7 * GB, CARD).go
    assert ledger.admit("B", 7 * GB, CARD).go
    add(ledger, "A", 7 * GB)
    with pytest.raises(Refused, match="B needs 7.0 GB"):
        add(ledger, "B", 7 * GB)


def test_memory_that_comes_back_late_does_not_refuse_whom_it_was_freed_for(ledger, card, now):
    settle(ledger, card, now, "old", 8 * GB)
    assert ledger.admit("A", 10 * GB, CARD).evict == ("old",)
    ledger.remove("old")  # the driver still shows its 8 GB
    add(ledger, "A", 10 * GB)
    assert ledger.get("A").predicted_bytes == 10 * GB


def test_adding_without_unloading_what_was_named_is_refused(ledger, card, now):
    settle(ledger, card, now, "old", 8 * GB)
    assert ledger.admit("A", 10 * GB, CARD).evict == ("old",)
    with pytest.raises(Refused):
        add(ledger, "A", 10 * GB)


def test_a_jobs_peak_stays_promised_while_it_runs(ledger, card):
    add(ledger, "tuning", 8 * GB, kind="job")
    card.shown["tuning"] = 5 * GB
    ledger.measure("tuning", 5 * GB)
    assert ledger.available(CARD) == 4 * GB


def test_devices_do_not_mix(card):
    ledger = Ledger({"cpu": 4 * GB, CARD: 12 * GB}.get, {})
    ledger.add(id="a", label="A", owner="chat", kind="model", device="cpu", predicted_bytes=3 * GB)
    assert (ledger.available("cpu"), ledger.available(CARD)) == (GB, 12 * GB)
    assert [e.id for e in ledger.entries("cpu")] == ["a"]


# Parking


@pytest.fixture
def computer():
    """A card of 12 GB and 16 GB of RAM; `shown[device][id]` is what each holder has taken."""
    return Computer(12 * GB, 16 * GB)


class Computer:
    def __init__(self, card, ram):
        self.total = {CARD: card, "cpu": ram}
        self.shown = {CARD: {}, "cpu": {}}

    def free(self, device):
        return self.total[device] - sum(self.shown[device].values())


@pytest.fixture
def roomy(computer, now):
    return Ledger(computer.free, {}, clock=lambda: now[0])


def hold(ledger, computer, now, id, size, *, fixed=0, ram=0, device=CARD, parkable=True, **more):
    """A holder that is loaded and idle; on the card with a context of `fixed` bytes."""
    ledger.add(id=id, label=id.upper(), owner="chat", kind=more.pop("kind", "model"),
               device=device, predicted_bytes=size + fixed, parkable=parkable, fixed_bytes=fixed,
               ram_bytes=ram)  # fmt: skip
    computer.shown[device][id] = size + fixed
    computer.shown["cpu"][id] = computer.shown["cpu"].get(id, 0) + ram
    ledger.measure(id, size)
    now[0] += 1


def test_an_idle_model_is_parked_where_it_can_be_and_ram_has_room(roomy, computer, now):
    hold(roomy, computer, now, "a", 8 * GB)
    verdict = roomy.admit("B", 8 * GB, CARD)
    assert (verdict.evict, verdict.park, verdict.go) == (("a",), {"a"}, False)
    computer.total["cpu"] = 7 * GB
    verdict = roomy.admit("B", 8 * GB, CARD)
    assert (verdict.evict, verdict.park) == (("a",), frozenset())


def test_what_cannot_be_parked_and_what_is_on_the_cpu_is_unloaded(roomy, computer, now):
    hold(roomy, computer, now, "a", 8 * GB, parkable=False)
    assert roomy.admit("B", 8 * GB, CARD).park == frozenset()
    hold(roomy, computer, now, "c", 10 * GB, device="cpu")
    verdict = roomy.admit("D", 8 * GB, "cpu")
    assert (verdict.evict, verdict.park) == (("c",), frozenset())


def test_the_warm_spare_goes_where_its_ram_is_what_parking_lacks(roomy, computer, now):
    hold(roomy, computer, now, "a", 8 * GB)
    hold(roomy, computer, now, "spare", GB, device="cpu", kind="spare")
    computer.total["cpu"] = 8 * GB + GB // 2
    verdict = roomy.admit("B", 8 * GB, CARD)
    assert (verdict.evict, verdict.park) == (("spare", "a"), {"a"})
    computer.total["cpu"] = 30 * GB
    assert roomy.admit("B", 8 * GB, CARD).evict == ("a",)


def park(ledger, computer, id):
    size = ledger.get(id).held_bytes
    ledger.park(id)
    computer.shown["cpu"][id] = size
    ledger.parked(id, size)
    computer.shown[CARD][id] = ledger.get(id).fixed_bytes


def test_ram_is_promised_from_the_moment_that_parking_begins(roomy, computer, now):
    hold(roomy, computer, now, "a", 8 * GB)
    roomy.park("a")
    assert roomy.available("cpu") == 8 * GB
    assert roomy.available(CARD) == 4 * GB, "the card's memory is not free before it came back"
    assert roomy.get("a").state == "parking" and not roomy.get("a").evictable
    park(roomy, computer, "a")
    assert (roomy.available("cpu"), roomy.available(CARD)) == (8 * GB, 12 * GB)


def test_a_parked_one_comes_back_and_another_goes_for_it(roomy, computer, now):
    hold(roomy, computer, now, "a", 6 * GB, fixed=GB)
    park(roomy, computer, "a")
    hold(roomy, computer, now, "b", 8 * GB)
    verdict = roomy.admit("A", 6 * GB, CARD, returns="a")
    assert (verdict.evict, verdict.park) == (("b",), {"b"})
    with pytest.raises(Refused, match="Another load took|A needs"):
        roomy.come_back("a")  # before b went
    park(roomy, computer, "b")
    roomy.come_back("a")
    assert roomy.get("a").state == "returning"
    assert roomy.available(CARD) == 12 * GB - GB - 6 * GB
    computer.shown[CARD]["a"], computer.shown["cpu"]["a"] = 7 * GB, 0
    roomy.measure("a", 6 * GB)
    assert roomy.available(CARD) == 5 * GB


def test_parked_models_go_where_ram_is_wanted_and_where_only_their_contexts_are_missing(
    roomy, computer, now
):
    hold(roomy, computer, now, "a", 8 * GB, fixed=GB)
    park(roomy, computer, "a")
    assert roomy.admit("B", 10 * GB, "cpu").evict == ("a",)
    verdict = roomy.admit("C", 12 * GB - 1, CARD)
    assert (verdict.evict, verdict.park) == (("a",), frozenset())
    hold(roomy, computer, now, "b", 6 * GB, fixed=GB)
    verdict = roomy.admit("C", 10 * GB + GB // 2, CARD)
    assert verdict.evict == ("b",), "b's place and context are enough"
    assert not verdict.park, "parked, it would keep its context"


def test_layers_that_wait_in_ram_are_promised_there(roomy, computer, now):
    assert roomy.admit("A", 8 * GB, CARD, 17 * GB).refused
    verdict = roomy.admit("A", 8 * GB, CARD, 10 * GB)
    assert verdict.go
    roomy.add(id="a", label="A", owner="", kind="model", device=CARD, predicted_bytes=8 * GB,
              ram_bytes=10 * GB)  # fmt: skip
    assert roomy.available("cpu") == 6 * GB
    assert roomy.admit("B", 7 * GB, "cpu").refused, "A loads: nobody is unloaded for it"


def test_a_job_and_what_works_is_never_parked(roomy, computer, now):
    hold(roomy, computer, now, "job", 5 * GB, kind="job")
    hold(roomy, computer, now, "a", 5 * GB)
    roomy.set_busy("a", True)
    assert roomy.admit("B", 8 * GB, CARD).refused
    assert roomy.unused(0) == ()
    assert not roomy.can_park(roomy.get("job")) and not roomy.can_park(roomy.get("a"))


def test_only_what_is_on_a_gpu_and_unused_for_long_is_called_idle(roomy, computer, now):
    hold(roomy, computer, now, "old", GB)
    hold(roomy, computer, now, "cpu", GB, device="cpu")
    now[0] += 100
    hold(roomy, computer, now, "new", GB)
    assert [e.id for e in roomy.unused(50)] == ["old"]
    assert [e.id for e in roomy.unused(0)] == ["old", "new"]


def test_a_process_is_granted_what_it_was_promised_and_its_part_of_the_rest(roomy, computer, now):
    hold(roomy, computer, now, "a", 4 * GB, fixed=GB)
    assert roomy.grant("a") == 4 * GB + 7 * GB
    hold(roomy, computer, now, "b", 3 * GB)
    roomy.set_busy("b", True)
    assert roomy.grant("a") == 4 * GB + 4 * GB // 2
    assert roomy.grant("b") == 3 * GB + 4 * GB
    hold(roomy, computer, now, "c", GB, device="cpu")
    assert roomy.grant("c") == roomy.grant("nobody") == 0


def test_unknown_ids_are_no_error(ledger):
    ledger.park("x"), ledger.parked("x", 1), ledger.come_back("x")
    ledger.remove("x"), ledger.set_busy("x", True), ledger.measure("x", 1)
    assert ledger.entries() == ()
    assert ledger.get("x") is None


class Life:
    """Random loads, runs, deaths and evictions on one card, checked after every step.

    Each holder takes its memory bit by bit, at most what was predicted; what it gives back shows
    late now and then. `pending` loads were admitted and are still unloading others.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.card, self.now, self.late = Card(), 0.0, {}
        self.ledger = Ledger(self.card.free, {"cuda": GB // 2}, clock=lambda: self.now)
        self.targets, self.pending, self.count, self.outcomes = {}, [], 0, set()

    def step(self):
        self.now += self.random.random()
        self.random.choice((self.ask, self.ask, self.write_down, self.grow, self.grow, self.run,
                            self.die, self.come_back, self.grow))()  # fmt: skip
        self.check()

    def ask(self):
        self.count += 1
        size = self.random.randint(1, 9 * GB)
        kind = self.random.choice(("model", "model", "model", "job", "spare"))
        verdict = self.ledger.admit(f"m{self.count}", size, CARD)
        self.outcomes.add("refuse" if verdict.refused else "go" if verdict.go else "evict")
        if verdict.refused:
            assert verdict.hint and "can be had" in verdict.message
            return
        for id in verdict.evict:
            entry = self.ledger.get(id)
            assert entry.kind != "job" and not entry.busy and entry.state == "ready"
        self.pending.append((f"m{self.count}", kind, size, list(verdict.evict)))
        if self.random.random() < 0.5:
            self.write_down()

    def write_down(self):
        if not self.pending:
            return
        id, kind, size, evict = self.pending.pop(self.random.randrange(len(self.pending)))
        for other in evict:
            entry = self.ledger.get(other)
            if entry is None or entry.evictable:  # it may have become busy meanwhile
                self.unload(other)
        try:
            add(self.ledger, id, size, kind)
        except Refused:
            self.outcomes.add("taken")
            return
        self.targets[id] = self.random.randint(size // 2, size)
        self.card.shown[id] = 0

    def grow(self):
        loading = [e.id for e in self.ledger.entries() if e.state == "loading"]
        if not loading:
            return
        id = self.random.choice(loading)
        left = self.targets[id] - self.card.shown[id]
        self.card.shown[id] += self.random.choice((left, left // 2))
        if self.card.shown[id] == self.targets[id]:
            self.ledger.measure(id, self.card.shown[id])
        elif self.random.random() < 0.7:
            self.ledger.measure(id, self.card.shown[id], state="loading")

    def run(self):
        ready = [e for e in self.ledger.entries() if e.state == "ready"]
        if ready:
            entry = self.random.choice(ready)
            self.ledger.set_busy(entry.id, not entry.busy)

    def die(self):
        if self.ledger.entries() and self.random.random() < 0.5:
            self.unload(self.random.choice(self.ledger.entries()).id)

    def unload(self, id):
        self.ledger.remove(id)
        self.targets.pop(id, None)
        if id in self.card.shown and self.random.random() < 0.3:
            self.late[id] = True
        else:
            self.card.shown.pop(id, None)

    def come_back(self):
        for id in self.late:
            self.card.shown.pop(id, None)
        self.late.clear()

    def check(self):
        finally_held = sum(
            e.predicted_bytes if e.pending_bytes else self.card.shown[e.id]
            for e in self.ledger.entries()
        )
        assert finally_held <= self.card.total - GB // 2, "more promised than there is"


@pytest.mark.parametrize("first_seed", range(0, 200, 50))
def test_random_lives_never_promise_more_than_there_is(first_seed):
    outcomes = set()
    for seed in range(first_seed, first_seed + 50):
        life = Life(seed)
        for _ in range(120):
            life.step()
        outcomes |= life.outcomes
        for entry in life.ledger.entries():
            life.unload(entry.id)
        life.come_back()
        assert life.ledger.entries() == ()
        assert life.ledger.available(CARD) == life.card.total - GB // 2  # every entry freed
    assert outcomes == {"go", "evict", "refuse", "taken"}


@pytest.mark.alone
def test_a_verdict_over_a_hundred_entries_takes_less_than_a_millisecond(ledger, card, now):
    import timeit

    card.total = 1000 * GB
    for i in range(100):
        settle(ledger, card, now, f"m{i}", 10 * GB)
    assert timeit.timeit(lambda: ledger.admit("C", 5 * GB, CARD), number=200) / 200 < 0.001
