"""Becoming another program: exec where the system has it, otherwise waiting for a child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def become(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> int:
    """Run `command` in `folder` in place of this process. Returns its exit code on Windows only.

    Windows' own exec gives the shell its prompt back at once, so there this process waits.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(folder)
    if sys.platform == "win32":
        return wait(subprocess.Popen(command, env=environment))
    os.execve(command[0], command, os.environ if environment is None else environment)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C is left to it."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C went to the child too, and it tidies up
            continue
