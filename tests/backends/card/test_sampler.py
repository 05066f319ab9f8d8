"""The sampling thread: only while somebody looks, ten minutes kept, never silent for ever."""

import threading
import time

import pytest

from backends.card.gpu import Host, Reading
from backends.card.sampler import KEPT, Sampler


def reading(at=0.0):
    return Reading(at, "cpu", "", (), Host(1.0, 1, 2, 3))


class Reader:
    """Counts its calls; raises what it is given."""

    def __init__(self):
        self.count, self.error, self.called = 0, None, threading.Event()

    def __call__(self):
        self.count += 1
        self.called.set()
        if self.error:
            raise self.error
        return reading(float(self.count))


@pytest.fixture
def reader():
    return Reader()


def numbers(answer):
    return [r["seq"] for r in answer["readings"]]


def wait_until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_since_gives_only_what_is_new(reader):
    sampler = Sampler(reader)
    assert sampler.since(0) == {"seq": 0, "readings": []}
    for _ in range(3):
        sampler.sample()
    assert numbers(sampler.since(0)) == [1, 2, 3]
    assert numbers(sampler.since(2)) == [3]
    assert sampler.since(3) == {"seq": 3, "readings": []}


def test_a_negative_number_asks_for_the_last_so_many(reader):
    sampler = Sampler(reader)
    for _ in range(5):
        sampler.sample()
    assert numbers(sampler.since(-2)) == [4, 5]
    assert numbers(sampler.since(-99)) == [1, 2, 3, 4, 5]


def test_a_number_from_before_a_restart_gets_everything(reader):
    sampler = Sampler(reader)
    sampler.sample()
    assert numbers(sampler.since(4000)) == [1]


def test_ten_minutes_are_kept_and_no_more(reader):
    sampler = Sampler(reader)
    for _ in range(KEPT + 5):
        sampler.sample()
    assert numbers(sampler.since(0)) == list(range(6, KEPT + 6))
    assert sampler.latest().seq == KEPT + 5


def test_nobody_asking_means_nothing_is_read(reader):
    sampler = Sampler(reader, interval=0.01)
    sampler.start()
    time.sleep(0.1)
    assert reader.count == 0
    sampler.since(0)
    assert reader.called.wait(5)
    sampler.stop()


def test_sampling_ends_five_seconds_after_the_last_question(reader):
    now = [100.0]
    sampler = Sampler(reader, clock=lambda: now[0], interval=0.01)
    sampler.start()
    sampler.since(0)
    wait_until(lambda: reader.count >= 3)
    now[0] += 5.1
    time.sleep(0.1)
    seen = reader.count
    time.sleep(0.1)
    assert reader.count == seen
    sampler.since(0)
    wait_until(lambda: reader.count > seen)
    sampler.stop()


def test_a_watched_sampler_reads_once_an_interval_without_drift(reader):
    sampler = Sampler(reader, interval=0.05)
    sampler.start()
    sampler.since(0)
    wait_until(lambda: reader.count >= 1)
    time.sleep(1.0)
    assert 15 <= reader.count <= 23
    sampler.stop()


def test_a_reader_that_raises_is_said_and_tried_again(reader):
    sampler = Sampler(reader)
    reader.error = OSError("gone")
    sampler.sample()
    assert "could not be read (OSError). It is tried again" in sampler.since(0)["error"]
    reader.error = None
    sampler.sample()
    assert "error" not in sampler.since(0)
    assert numbers(sampler.since(0)) == [1]


def test_stop_ends_the_thread_and_start_brings_it_back(reader):
    sampler = Sampler(reader, interval=0.01)
    sampler.start()
    sampler.start()
    threads = [t for t in threading.enumerate() if t.name == "gpu-sampler"]
    assert len(threads) == 1
    sampler.stop()
    assert not threads[0].is_alive()
    sampler.start()
    sampler.since(0)
    assert reader.called.wait(5)
    sampler.stop()


@pytest.mark.alone
def test_a_reader_that_hangs_does_not_hold_up_stop_or_since():
    forever = threading.Event()
    sampler = Sampler(lambda: forever.wait(60) or reading(), interval=0.01)
    sampler.start()
    sampler.since(0)
    started = time.monotonic()
    assert sampler.since(0)["readings"] == []
    sampler.stop(grace=0.1)
    assert time.monotonic() - started < 1
    forever.set()
