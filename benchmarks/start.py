"""From nothing to a page: a cold process of ours against one of bare Gradio, in pairs."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, CannotRun, Plan, Row, free_port, interleaved, spread
from benchmarks.measure import median_ratio as ratio_of
from benchmarks.server import CHECKOUT, TOKEN, command, started

START = Bar("start: page and /config answer, against bare Gradio", 1.3)
BARS = (START,)


def measure(plan: Plan) -> Iterator[Row]:
    """One pair first that does not count: it fills the file cache and writes the .pyc files."""
    ours(plan), bare(plan)
    pairs = list(interleaved(lambda: ours(plan), lambda: bare(plan), plan.pairs))
    mine, theirs = zip(*pairs, strict=True)
    through = "launch.py itself was not tried"
    with contextlib.suppress(CannotRun):
        launched = [launcher(plan) for _ in range(min(3, plan.pairs))]
        more = statistics.median(launched) - statistics.median(mine)
        through = f"through launch.py {spread(launched, ' s')}, so {more:+.2f} s"
    yield START.row(
        ratio_of(pairs),
        f"ours {spread(mine, ' s')}, bare gr.Blocks {spread(theirs, ' s')}, "
        f"{len(pairs)} pairs; {through}",
        ours_seconds=mine, bare_seconds=theirs,
    )  # fmt: skip


def ours(plan: Plan) -> float:
    port = free_port()
    return timed(command(fresh_home(plan), port), plan, port)


def bare(plan: Plan) -> float:
    port = free_port()
    words = [sys.executable, str(Path(__file__).with_name("bare_gradio.py")), str(port)]
    return timed(words, plan, port)


def launcher(plan: Plan) -> float:
    """As a user starts it: launch.py looks whether all is set up, then becomes the server."""
    own = Path(sys.prefix).resolve() == (CHECKOUT / ".venv").resolve()
    python = str(getattr(sys, "_base_executable", "") or sys.executable) if own else sys.executable
    port, home = free_port(), fresh_home(plan)
    words = [python, "launch.py", "serve", "--no-browser", "--home", str(home)]
    return timed([*words, "--port", str(port), "--token", TOKEN], plan, port)


def timed(words: list[str], plan: Plan, port: int) -> float:
    with started(words, plan.scratch / "start.log", port) as served:
        return served.started


def fresh_home(plan: Plan) -> Path:
    return Path(tempfile.mkdtemp(prefix="start-", dir=plan.scratch))
