"""The tests in several processes: `launch.py test`. Standard library only.

Files are spread over the workers of pytest-xdist. Tests marked `alone` measure time or memory that
a busy neighbour would spoil: they follow, in one process, when the workers have gone. So do those
marked `browser` on a small machine: a page, its server and its model take two cores by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from webui.setup import handover

MOST_WORKERS = 4  # each may hold a model and a browser
FEW_WORKERS = 3  # fewer than that have no room for a browser each
NOTHING_COLLECTED = 5  # pytest's exit codes
INTERRUPTED = 2
# In the order of the folders: by number of tests, slow files with few of them would come last.
SPREAD = ("--dist", "loadfile", "--no-loadscope-reorder")
# Threads that wait for each other go to sleep: turning in circles they would take a third of the
# cores from their neighbours.
CALM = {"OMP_WAIT_POLICY": "PASSIVE"}
PLAIN = ("-q", "-qq", "-v", "-vv", "-x", "--exitfirst", "--no-header", "--no-summary")
VALUED = ("-k", "--maxfail", "--durations", "--durations-min", "--tb", "-r")


def workers() -> int:
    """How many processes the tests are spread over here."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def parts(words: list[str], root: Path, count: int) -> list[list[str]]:
    """The arguments of each call of pytest that `words` ask for: two, or one as they are.

    Two where all tests or folders are run with options that mean the same in both. A file, a
    debugger, a report or anything else that is not known here goes to one plain pytest.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        if option in VALUED and not equals:
            if not rest:
                return [words]
            rest.pop(0)
        elif not (word in PLAIN or option in VALUED or word[:2] == "-r" or (root / word).is_dir()):
            return [words]
    if count < 2:
        return [words]
    alone = "alone or browser" if count < FEW_WORKERS else "alone"
    return [
        ["-n", str(count), *SPREAD, "-m", f"not ({alone})", *words],
        ["-m", alone, *words],
    ]


def run(words: list[str], root: Path, environment: Mapping[str, str]) -> int:
    """Run the tests that `words` ask pytest for. Returns the worse exit code, as far as it does."""
    command = [sys.executable, "-m", "pytest"]
    calls = parts(words, root, workers())
    if len(calls) == 1:
        return handover.become([*command, *calls[0]], root, dict(environment))
    first_only = any(w in ("-x", "--exitfirst") or w.startswith("--maxfail") for w in words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    codes: list[int] = []
    for call in calls:
        calm = CALM if call[0] == "-n" else {}
        process = subprocess.Popen([*command, *call], cwd=root, env={**calm, **environment})
        try:
            codes.append(handover.wait(process))
        finally:
            process.terminate()  # of a process that has ended: nothing
        if codes[-1] == INTERRUPTED or (first_only and codes[-1] not in (0, NOTHING_COLLECTED)):
            break
    code = worst(codes)
    said = "passed" if code == 0 else f"did NOT pass (exit codes {', '.join(map(str, codes))})"
    print(f"Both parts together, several at once and one alone: {said}.", flush=True)
    return code


def worst(codes: list[int]) -> int:
    """The first failure; 0 where one part passed and the other found nothing to run."""
    failures = [code for code in codes if code not in (0, NOTHING_COLLECTED)]
    return failures[0] if failures else min(codes)
