"""Every promise about speed and memory as a row: what, figure, bar, holds.

`python launch.py bench` measures this machine, prints the table and appends it to
WERKBANK_HOME/benchmarks.jsonl. `python -m benchmarks.run --help` has more to choose. The servers
that are measured live in a temporary folder: what is the user's is not touched.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.models import library
from benchmarks.machine import machine
from benchmarks.measure import BUSY_PERCENT, CannotRun, Others, Plan, Row

# Files in here, by the task that they are about.
TASKS: dict[str, tuple[str, ...]] = {
    "chat": ("start", "memory", "tokens", "load", "crash", "stream", "strip", "store", "reload",
             "together"),
    "train": ("dataset", "train_cpu"),
    "image": ("gallery",),
}  # fmt: skip
GROUPS = tuple(name for groups in TASKS.values() for name in groups)
OTHER_TASKS = ("speech",)
QUICK = {"pairs": 1, "minutes": 0.5, "seconds": 10.0, "tokens": 100, "kills": 2, "loads": 1,
         "streams": 1, "conversations": 300, "rows": 2000, "steps": 4,
         "pictures": 300}  # fmt: skip
HOLDS = {True: "yes", False: "NO", None: "not measured"}
INDENT = "    "


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep. Returns 0 where every row that could be measured holds, else 1."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.task in OTHER_TASKS:
        print(f"This version measures {' and '.join(TASKS)}, not {args.task}.")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended too
    began = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory(prefix="werkbank-", ignore_cleanup_errors=True) as scratch:
        plan = plan_of(args, Path(scratch))
        for name in args.only or TASKS.get(args.task, GROUPS):
            rows += measured(importlib.import_module(f"benchmarks.{name}"), plan)
    print(table(rows))
    print(f"\n{verdict(rows)} It took {(time.monotonic() - began) / 60:.1f} minutes.")
    keep(record(rows, args), args.json)
    return 1 if any(row.holds is False for row in rows) else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("task", nargs="?", choices=(*TASKS, *OTHER_TASKS), help="one task (default: all)")
    add("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    add("--minutes", type=float, metavar="N", help="with a page open, for its memory (default: 2)")
    add("--hour", action="store_true", help="the same as --minutes 60")
    add("--quick", action="store_true", help="once each, to see whether all of it runs")
    add("--json", type=Path, metavar="FILE", help="write this run's record there too")
    return parser.parse_args(argv)


def plan_of(args: argparse.Namespace, scratch: Path) -> Plan:
    options: dict[str, Any] = dict(QUICK) if args.quick else {}
    if args.minutes or args.hour:
        options["minutes"] = args.minutes or 60.0
    return Plan(scratch, **options, say=lambda text: print(text, file=sys.stderr, flush=True))


def measured(group: ModuleType, plan: Plan) -> list[Row]:
    """The rows of a group, whatever happens: those that it did not get to say why."""
    name, began = group.__name__.rpartition(".")[2], time.monotonic()
    plan.say(f"{name}: begun")
    rows: list[Row] = []
    why, holds = "", None
    with Others() as others:
        try:
            for row in group.measure(plan):
                rows.append(row)
        except CannotRun as error:
            why = str(error)
        except Exception as error:  # a row that breaks does not hold, and the others still run
            told = " ".join(str(error).split())[:200]
            why, holds = f"The measurement broke ({type(error).__name__}: {told}).", False
        noise = others.percent()
    done = {row.what for row in rows}
    rows += [replace(bar.missing(why), holds=holds) for bar in group.BARS if bar.what not in done]
    rows = [with_noise(row, noise) for row in rows]
    for row in rows:
        plan.say(f"  {row.what}: {row.figure} ({row.bar})")
    plan.say(f"{name}: {time.monotonic() - began:.0f} s")
    return rows


def with_noise(row: Row, percent: float) -> Row:
    """The row with what other programs took meanwhile; said only where that is much."""
    note = row.note
    if percent > BUSY_PERCENT:
        note += f"; NOT QUIET: other programs took {percent:.0f} % of the machine meanwhile"
    return replace(row, note=note, values={**row.values, "others_percent": round(percent, 1)})


# What is printed and kept


def table(rows: Sequence[Row]) -> str:
    """Four columns; what a figure is made of stands in the lines below it."""
    head = ("what", "figure", "bar", "holds")
    cells = [(r.what, r.figure, r.bar, HOLDS[r.holds]) for r in rows]
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(4)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()

    lines = [line(head), line(["-" * w for w in widths])]
    for row, texts in zip(rows, cells, strict=True):
        lines += [line(texts), *textwrap.wrap(row.note, 96, initial_indent=INDENT,
                                              subsequent_indent=INDENT)]  # fmt: skip
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    holding, broken = (sum(row.holds is value for row in rows) for value in (True, False))
    unmeasured = len(rows) - holding - broken
    return f"{holding} hold, {broken} do not, {unmeasured} could not be measured here."


def record(rows: Sequence[Row], args: argparse.Namespace) -> dict[str, Any]:
    """One run with the machine that it was made on, as it is kept."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "asked": {k: v for k, v in vars(args).items() if v and k != "json"},
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
    }


def keep(run: dict[str, Any], copy: Path | None) -> None:
    """Append the run to the home's list, and write it to `copy` where one was asked for."""
    home = library.home()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = json.dumps(run)
    with (home / "benchmarks.jsonl").open("a", encoding="utf-8") as kept:
        kept.write(line + "\n")
    if copy:
        copy.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
