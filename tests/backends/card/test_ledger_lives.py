"""Thousands of random lives of models, jobs and spares on one card with scripted workers, checked
after every step: milliseconds each, no GPU."""

import random

import pytest

from backends.base import Refused
from backends.card.ledger import GB, Ledger

CARD = "cuda:0"
CONTEXT = GB // 2
RESERVE = {"cuda": GB // 2, "cpu": GB}


class Worker:
    """A scripted process: what it was promised, what it really takes, where it has it now."""

    def __init__(self, need, target, ram):
        self.need, self.target, self.ram = need, target, ram
        self.on_card = self.in_ram = 0


class Life:
    """Loads, runs, parkings, returns and deaths in any order, with others in between.

    What the ledger is told comes from the workers alone; what they hold is known apart from it.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.total = {CARD: 12 * GB, "cpu": self.random.choice((4, 12, 24)) * GB}
        self.now, self.workers, self.count, self.seen = 0.0, {}, 0, set()
        self.ledger = Ledger(self.free, RESERVE, clock=lambda: self.now)

    def free(self, device):
        taken = sum(w.on_card if device == CARD else w.in_ram for w in self.workers.values())
        return self.total[device] - taken

    def step(self):
        self.now += self.random.random()
        moves = (self.load, self.load, self.grow, self.grow, self.grow, self.use, self.use,
                 self.finish_parking, self.finish_parking, self.ask_parked, self.ask_parked,
                 self.arrive, self.arrive, self.idle, self.die)  # fmt: skip
        self.random.choice(moves)()
        self.check()

    def states(self, *states):
        return [e for e in self.ledger.entries() if e.state in states]

    def any(self, *states):
        found = self.states(*states)
        return self.random.choice(found) if found else None

    # Loads, which may die while others go for them

    def load(self):
        self.count += 1
        id, kind = f"m{self.count}", self.random.choice(("model",) * 4 + ("job", "spare"))
        device = "cpu" if kind == "spare" else CARD
        need = self.random.randint(GB, 9 * GB) if device == CARD else GB
        ram = self.random.choice((0, 0, 0, 3 * GB)) if kind == "model" else 0
        verdict = self.ledger.admit(id, need, device, ram)
        self.seen.add("refused" if verdict.refused else "go" if verdict.go else "evict")
        if verdict.refused or not self.let_go(verdict):
            return
        if self.random.random() < 0.1:
            return  # cancelled meanwhile
        fixed = CONTEXT if device == CARD else 0
        try:
            self.ledger.add(id=id, label=id, owner="", kind=kind, device=device, ram_bytes=ram,
                            predicted_bytes=need, parkable=self.random.random() < 0.7,
                            fixed_bytes=fixed)  # fmt: skip
        except Refused:
            self.seen.add("taken")
            return
        worker = Worker(need, self.random.randint(need // 2, need), ram)
        self.workers[id] = worker

    def let_go(self, verdict):
        """As the residency does: one after the other, and the world goes on in between."""
        for id in verdict.evict:
            entry = self.ledger.get(id)
            if entry is None or not (entry.evictable or entry.state == "parked"):
                continue
            assert entry.kind != "job", "a job is never evicted"
            parks = id in verdict.park
            self.seen.add("park" if parks else "unload")
            if parks:
                assert entry.parkable and entry.device == CARD
                self.ledger.park(id)
                if self.random.random() < 0.1:
                    self.gone(id)  # dies on the way
                elif self.random.random() < 0.1:
                    self.ledger.measure(id, entry.held_bytes)  # its worker refuses
                else:
                    self.moved(id)
            else:
                self.gone(id)
            if self.random.random() < 0.2:
                self.random.choice((self.grow, self.use, self.die, self.ask_parked))()
                self.check()
        return True

    def grow(self):
        entry = self.any("loading")
        if entry is None:
            return
        worker = self.workers[entry.id]
        fixed = entry.fixed_bytes
        left = worker.target - fixed - max(0, worker.on_card - fixed)
        if entry.device == "cpu":
            worker.in_ram = worker.target
            self.ledger.measure(entry.id, worker.in_ram)
            return
        worker.in_ram = worker.ram
        worker.on_card = max(worker.on_card, fixed) + self.random.choice((left, left // 2))
        held = worker.on_card - fixed
        if worker.on_card == worker.target:
            self.ledger.measure(entry.id, held)

    def use(self):
        entry = self.any("ready")
        if entry is None:
            return
        self.ledger.set_busy(entry.id, not entry.busy)
        worker = self.workers[entry.id]
        if entry.device == CARD and not entry.busy:  # a long conversation takes all of it
            assert self.ledger.grant(entry.id) >= entry.predicted_bytes - entry.fixed_bytes
            worker.on_card = self.random.choice((worker.on_card, worker.need))
            self.ledger.measure(entry.id, worker.on_card - entry.fixed_bytes)

    # Moves

    def idle(self):
        for entry in self.ledger.unused(self.random.choice((0, 5, 50)))[:1]:
            assert entry.kind == "model" and not entry.busy
            if self.ledger.can_park(entry):
                self.seen.add("idle")
                self.ledger.park(entry.id)

    def finish_parking(self):
        if entry := self.any("parking"):
            self.moved(entry.id)

    def moved(self, id):
        worker, entry = self.workers[id], self.ledger.get(id)
        size = worker.on_card - entry.fixed_bytes
        worker.on_card, worker.in_ram = entry.fixed_bytes, worker.ram + size
        self.ledger.parked(id, size)

    def ask_parked(self):
        entry = self.any("parked")
        if entry is None:
            return
        need = entry.predicted_bytes - entry.fixed_bytes
        verdict = self.ledger.admit(entry.label, need, CARD, 0, entry.id)
        if verdict.refused:
            self.seen.add("return refused")
            return
        assert entry.id not in verdict.evict
        self.let_go(verdict)
        if self.ledger.get(entry.id) is None or self.ledger.get(entry.id).state != "parked":
            return
        try:
            self.ledger.come_back(entry.id)
            self.seen.add("return")
        except Refused:
            self.seen.add("return taken")

    def arrive(self):
        entry = self.any("returning")
        if entry is None:
            return
        worker = self.workers[entry.id]
        size = worker.in_ram - worker.ram
        if self.random.random() < 0.1:  # the GPU refuses: it is parked still
            self.ledger.parked(entry.id, size)
            return
        worker.on_card, worker.in_ram = entry.fixed_bytes + size, worker.ram
        self.ledger.measure(entry.id, size)

    def die(self):
        entries = self.ledger.entries()
        if entries and self.random.random() < 0.5:
            self.gone(self.random.choice(entries).id)

    def gone(self, id):
        self.workers.pop(id, None)
        self.ledger.remove(id)

    def check(self):
        entries = {e.id: e for e in self.ledger.entries()}
        assert set(entries) == set(self.workers), "an entry for each worker, and no other"
        assert self.free(CARD) >= RESERVE["cuda"], "the card is fuller than it may be"
        # Were every promise taken up at this moment, it would fit all the same.
        card = sum(
            w.on_card if entries[id].state in ("parked", "parking") else w.need
            for id, w in self.workers.items()
            if entries[id].device == CARD
        )
        assert card <= self.total[CARD] - RESERVE["cuda"], "more promised than there is"
        in_ram = sum(
            max(w.in_ram, w.ram)
            + (w.on_card - entries[id].fixed_bytes) * (entries[id].state == "parking")
            for id, w in self.workers.items()
        )
        assert in_ram <= self.total["cpu"] - RESERVE["cpu"], "more RAM than there is"
        for id, entry in entries.items():
            both = entry.held_bytes and entry.state in ("parked", "returning")
            assert not both, "parked and loaded at once"
            if entry.state == "parked":
                assert self.workers[id].on_card == entry.fixed_bytes


@pytest.mark.parametrize("first_seed", range(0, 400, 50))
def test_random_lives_keep_every_promise(first_seed):
    seen = set()
    for seed in range(first_seed, first_seed + 50):
        life = Life(seed)
        for _ in range(150):
            life.step()
        seen |= life.seen
        for id in list(life.workers):
            life.gone(id)
        assert life.ledger.entries() == ()
        assert life.ledger.available(CARD) == life.total[CARD] - RESERVE["cuda"]
        assert life.ledger.available("cpu") == life.total["cpu"] - RESERVE["cpu"]
    assert {"go", "evict", "refused", "park", "unload", "idle", "return",
            "return refused"} <= seen  # fmt: skip
