"""What set-up says to a person: lines, one line that changes, and the failure that ends it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class SetupFailed(Exception):
    """Why there is no environment: `message` says what happened, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message, self.hint = message, hint


class Talk:
    """Prints lines and, on a terminal, one status line that is written over.

    Where the output is a file or a pipe, the status becomes a line of its own every `pause`
    seconds of silence, and there are no colours.
    """

    def __init__(self, out: TextIO | None = None, pause: float = 15.0) -> None:
        self.out = out or sys.stdout
        self.tty = self.out.isatty()
        self.pause = pause  # seconds
        self._status = ""
        self._last = time.monotonic()

    def line(self, text: str = "", colour: str = "") -> None:
        """One line that stays."""
        self._wipe()
        self._write(paint(text, colour, self.tty) + "\n")

    def status(self, text: str) -> None:
        """What is going on just now. The next line or status takes its place."""
        if self.tty:
            self._wipe()
            self._status = text[: shutil.get_terminal_size().columns - 1]
            self._write(paint(self._status, "dim", True))
        elif time.monotonic() - self._last >= self.pause:
            self.line("  " + text.strip())

    def _wipe(self) -> None:
        if self._status:
            self._write("\r" + " " * len(self._status) + "\r")
            self._status = ""

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
        self._last = time.monotonic()


def paint(text: str, colour: str, tty: bool) -> str:
    """The text in a colour, where it goes to a terminal that wants colours."""
    if not colour or not tty or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def size(count: float) -> str:
    """Bytes as a person reads them: 9.0 GB, 530 MB, 12 kB."""
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return (
                f"{count / step:.1f} {unit}" if count < 10 * step else f"{count / step:.0f} {unit}"
            )
    return f"{count / 1e3:.0f} kB"


def clock(seconds: float) -> str:
    """A duration as minutes and seconds: 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
