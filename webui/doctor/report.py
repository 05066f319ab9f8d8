"""The doctor's report: every section looked at, printed for a person or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from webui.doctor.computer import computer_findings, folder_of
from webui.doctor.finding import Finding
from webui.doctor.gpu import gpu_findings
from webui.doctor.installed import installed_findings
from webui.doctor.own import own_findings
from webui.setup.talk import SetupFailed, paint

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}
Section = Callable[[Path], Iterator[Finding]]


def report(
    *, home: Path | None = None, as_json: bool = False, setup_failure: SetupFailed | None = None
) -> int:
    """Print the findings. Returns 0 where nothing stops Werkbank, else 1.

    `setup_failure` is why there is no environment, where there is none.
    """
    folder = home or folder_of("home")
    sections: dict[str, Section] = {
        "This computer": computer_findings,
        "Installed": lambda _: installed_findings(setup_failure),
        "Graphics card": lambda _: gpu_findings(),
        "Werkbank": own_findings,
    }
    found = {}
    for title, look in sections.items():
        found[title] = list(look(folder))
        if not as_json:
            _show(title, found[title])
    everything = [finding for findings in found.values() for finding in findings]
    stopped = any(f.state == "wrong" for f in everything)
    if as_json:
        groups = {title: [asdict(f) for f in findings] for title, findings in found.items()}
        print(json.dumps({"ok": not stopped, "findings": groups}, indent=2))
    else:
        _show_verdict(everything)
    return 1 if stopped else 0


def _show(title: str, findings: list[Finding]) -> None:
    tty = sys.stdout.isatty()
    print(paint(title, "bold", tty))
    width = max(len(f.name) for f in findings)
    for f in findings:
        state = paint(f"{f.state:<5}", COLOURS[f.state], tty)
        print(f"  {state}  {f.name:<{width}}  {f.value}")
    print(flush=True)


def _show_verdict(findings: list[Finding]) -> None:
    tty = sys.stdout.isatty()
    wrong = [f for f in findings if f.state == "wrong"]
    better = [f for f in findings if f.state == "note" and f.mend]
    if wrong:
        print(paint("What is wrong, and what mends it", "bold", tty))
    else:
        print(paint("Nothing is wrong that stops Werkbank.", "green", tty))
    _show_mends(wrong)
    if better:
        print(paint("\nWhat could be better", "bold", tty))
    _show_mends(better)


def _show_mends(findings: list[Finding]) -> None:
    """Each finding, and below those that one command mends, that command once."""
    for mend, together in groupby(findings, key=lambda finding: finding.mend):
        for finding in together:
            print(f"  {finding.name}: {finding.value}")
        print(f"      {mend}")
