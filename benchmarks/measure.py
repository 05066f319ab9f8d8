"""What every measurement shares: bars and rows, pairs, quarters, CPU time, patience."""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
POLL = 0.01  # seconds between two knocks at a server that starts
BUSY_PERCENT = 10.0  # of all cores, by other programs: above this the machine is not quiet


class CannotRun(Exception):
    """Why a measurement cannot be made here, as a sentence."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds` is None where it could not be measured; `note` says why."""

    what: str
    figure: str
    bar: str
    holds: bool | None
    note: str = ""
    values: dict[str, Any] = field(default_factory=dict)  # what was measured, for the record


@dataclass(frozen=True)
class Bar:
    """What is measured, and the value that it must not pass. `unit` is written as it stands."""

    what: str
    limit: float
    unit: str = ""
    at_least: bool = False
    digits: int = 2

    @property
    def text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"

    def row(self, figure: float, note: str = "", **values: Any) -> Row:
        """The unrounded figure is judged, the rounded one shown."""
        holds = figure >= self.limit if self.at_least else figure <= self.limit
        shown = f"{figure:.{self.digits}f}{self.unit}"
        return Row(self.what, shown, self.text, holds, note, {"figure": figure, **values})

    def missing(self, why: str) -> Row:
        return Row(self.what, "-", self.text, None, why)


@dataclass(frozen=True)
class Plan:
    """How long and how often. `scratch` is a folder for the servers' homes, thrown away after."""

    scratch: Path
    pairs: int = 5
    minutes: float = 2.0  # with a page open, for the memory row
    seconds: float = 60.0  # with the strip shown, and again with it hidden
    tokens: int = 400  # of one answer whose speed is measured
    kills: int = 4  # a model is started again three times in ten minutes, then no more
    loads: int = 3
    streams: int = 3
    conversations: int = 10_000  # in the database of the store group
    rows: int = 200_000  # in the file of the dataset group
    steps: int = 12  # of one training
    pictures: int = 10_000  # in the gallery
    say: Callable[[str], None] = lambda text: None

    def home(self, name: str) -> Path:
        """A home folder for one server, empty."""
        folder = self.scratch / name
        folder.mkdir()
        return folder


# Numbers


def interleaved(
    first: Callable[[], T], second: Callable[[], T], pairs: int
) -> Iterator[tuple[T, T]]:
    """Both, so many times, the order turned round each time: what drifts meets both alike."""
    for i in range(pairs):
        if i % 2:
            b = second()
            a = first()
        else:
            a = first()
            b = second()
        yield a, b


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median over the pairs of first / second."""
    return statistics.median(a / b for a, b in pairs)


def quarters(at: Sequence[float], values: Sequence[float]) -> list[float]:
    """How much a growing value grew in each quarter of the time, read between the samples.

    `at` are the times of the samples, rising. Raises ValueError for less than two.
    """
    if len(at) < 2 or at[-1] <= at[0]:
        raise ValueError("There are too few samples for quarters. Measure for longer.")
    borders = [at[0] + (at[-1] - at[0]) * i / 4 for i in range(5)]
    read = [_between(at, values, border) for border in borders]
    return [b - a for a, b in pairwise(read)]


def _between(at: Sequence[float], values: Sequence[float], moment: float) -> float:
    for (t0, v0), (t1, v1) in pairwise(zip(at, values, strict=True)):
        if t0 <= moment <= t1 and t1 > t0:
            return v0 + (v1 - v0) * (moment - t0) / (t1 - t0)
    return values[-1]


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Least squares: what `values` grow by for each unit of `at`. 0 for less than two samples."""
    return statistics.linear_regression(at, values).slope if len(set(at)) > 1 else 0.0


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """The median, with the range where there is one: "3.1 s (3.0 to 3.4)"."""
    middle = f"{statistics.median(values):.{digits}f}{unit}"
    low, high = min(values), max(values)
    return f"{middle} ({low:.{digits}f} to {high:.{digits}f})" if len(values) > 1 else middle


# Processes


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor so far, all its threads, its children not."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Others:
    """What programs that are not ours take of the machine, while it is entered.

    Ours are this process and all that descend from it. The system adds up the time of children
    that were waited for; those that lost their parent (a killed worker, a browser's helpers) are
    seen by looking every half second. The larger of the two sums is taken, and is a little short.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, float], float] = {}  # CPU seconds, by pid and birth
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look_on, daemon=True)
        self._began = self._now()

    def __enter__(self) -> Others:
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._looking.join()

    def percent(self) -> float:
        """Of all cores, until now."""
        clock, busy, waited = (b - a for a, b in zip(self._began, self._now(), strict=True))
        ours = max(waited, sum(self._latest.values()))
        return max(0.0, 100 * (busy - ours) / (clock * (psutil.cpu_count() or 1)))

    def _look_on(self) -> None:
        me = psutil.Process()
        known = {me.pid: me}
        before = sum(me.cpu_times()[:2])
        while not self._done.wait(0.5):
            known.update((child.pid, child) for child in me.children(recursive=True))
            for process in list(known.values()):
                try:
                    used = sum(process.cpu_times()[:2]) - (before if process == me else 0.0)
                    self._latest[process.pid, process.create_time()] = used
                except psutil.Error:
                    del known[process.pid]

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of the clock, of all processors at work, of us and children waited for."""
        everybody = psutil.cpu_times()
        idle = everybody.idle + getattr(everybody, "iowait", 0.0)
        guests = getattr(everybody, "guest", 0.0) + getattr(everybody, "guest_nice", 0.0)
        return time.monotonic(), sum(everybody) - idle - guests, sum(os.times()[:4])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(check: Callable[[], T], seconds: float, what: str, poll: float = 0.1) -> T:
    """The first true answer of `check`. Raises CannotRun, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(poll)
    raise CannotRun(f"{what} did not happen within {seconds:.0f} s.")


def seconds_until(
    process: subprocess.Popen[Any],
    started: float,
    port: int,
    expected: Mapping[str, bytes],
    headers: Mapping[str, str],
    patience: float = 90.0,
) -> float:
    """Seconds from `started` (monotonic) until every path answered 200, its words in the body."""
    left = dict(expected)
    while time.monotonic() - started < patience:
        path, words = next(iter(left.items()))
        if _answers(port, path, words, headers):
            del left[path]
            if not left:
                return time.monotonic() - started
            continue
        if process.poll() is not None:
            raise CannotRun(f"The server ended at its start (exit code {process.returncode}).")
        time.sleep(POLL)
    raise CannotRun(f"The server did not answer within {patience:.0f} s.")


def _answers(port: int, path: str, words: bytes, headers: Mapping[str, str]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status == 200 and words in answer.read()
    except OSError:
        return False  # nobody listens yet
    finally:
        connection.close()


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
