"""Who is locked out, and for how long; how many may come."""

from __future__ import annotations

from webui.demo import quota
from webui.demo.quota import Lockout, Terms, Visitors


def test_five_wrong_ones_lock_an_address_each_time_twice_as_long() -> None:
    now = [0.0]
    lockout = Lockout(clock=lambda: now[0])
    assert [lockout.wrong("a") for _ in range(4)] == [4, 3, 2, 1] and not lockout.wait("a")
    assert lockout.wrong("a") == 0 and lockout.wait("a") == 60
    assert not lockout.wait("b")
    now[0] = 61.0
    assert not lockout.wait("a")
    for _ in range(5):
        lockout.wrong("a")
    assert lockout.wait("a") == 120
    for _ in range(40):
        now[0] += 4000
        for _ in range(5):
            lockout.wrong("a")
    assert lockout.wait("a") == 3600  # and no number grows without a bound


def test_the_right_one_makes_the_wrong_ones_forgotten() -> None:
    lockout = Lockout()
    for _ in range(4):
        lockout.wrong("a")
    lockout.right("a")
    assert lockout.wrong("a") == 4


def test_a_flood_of_addresses_takes_no_more_memory(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(quota, "ADDRESSES", 100)
    lockout = Lockout()
    for number in range(1000):
        lockout.wrong(str(number))
    assert len(lockout._known) == 100


def test_a_demo_takes_so_many_visitors_and_counts_what_they_send() -> None:
    visitors = Visitors(Terms(visitors=2, messages=3))
    first, second = visitors.enter(), visitors.enter()
    assert first and second and first.id != second.id and visitors.enter() is None
    first.used, second.seen = 2, second.seen - 60
    assert (visitors.left(first), visitors.left(second)) == (1, 3)
    assert (visitors.here, visitors.messages) == (1, 2)


def test_in_a_full_demo_who_went_without_a_word_gives_way() -> None:
    visitors = Visitors(Terms(visitors=2))
    talks, silent = visitors.enter(), visitors.enter()
    assert talks and silent
    talks.used, talks.seen = 1, talks.seen - 1000
    assert visitors.enter() is None  # it may be reading
    silent.seen -= quota.SILENT + 1
    new = visitors.enter()
    assert new and set(visitors.known) == {talks.id, new.id}
