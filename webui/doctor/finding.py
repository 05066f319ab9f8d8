"""One line of the doctor's report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `wrong` stops Werkbank, a `note` does not.

    `mend` is what to do, with the command; empty where there is nothing to do.
    """

    name: str
    value: str
    state: State = "ok"
    mend: str = ""


def start_command() -> str:
    """How Werkbank is started on this system."""
    return "py launch.py" if sys.platform == "win32" else "python3 launch.py"
