"""The doctor's look at Werkbank's own: the home folder, the running one, the port, the browser."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from webui.doctor.computer import existing
from webui.doctor.finding import Finding, start_command
from webui.setup import chromium
from webui.setup.pins import installed


def own_findings(home: Path) -> Iterator[Finding]:
    """The home folder, the running instance, the port, the tests' browser."""
    yield _home(home)
    running = _running(home)
    yield running or Finding("Running", "no Werkbank on this home")
    yield _port(7860)
    browser = chromium.find(playwright=installed("playwright") is not None)
    if browser:
        yield Finding("Chromium", f"{browser} (for the tests)")
    else:
        yield Finding("Chromium", "none found; only the tests need it", "note",
                      f"{start_command()} test installs it where it can; else "
                      f"{chromium.advice()}.")  # fmt: skip


def _home(home: Path) -> Finding:
    folder = existing(home)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        mend = f"Become its owner, or use another: {start_command()} --home DIR"
        return Finding("Home", f"{home} cannot be written ({error.strerror})", "wrong", mend)
    return Finding("Home", f"{home}, writable" + ("" if folder == home else ", not made yet"))


def _running(home: Path) -> Finding | None:
    """A Werkbank that answers for this home, by the note that its server leaves there."""
    try:
        note = json.loads((home / "server.json").read_text("utf-8"))
        address = str(note["url"]).partition("?")[0]  # behind it stands the token
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if _answers(address):
        return Finding("Running", f"{address} (process {note.get('pid')})")
    return Finding("Running", f"process {note.get('pid')} at {address} does not answer", "note")


def _answers(address: str) -> bool:
    """Whether a Werkbank answers at an address on this computer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError):
        with direct.open(f"{address}healthz", timeout=2) as answer:
            body = json.loads(answer.read(1000))
            return isinstance(body, dict) and body.get("status") == "ok"
    return False


def _port(port: int) -> Finding:
    with socket.socket() as attempt:
        if sys.platform != "win32":  # as the server does: a port that was just left counts as free
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            who = "a Werkbank" if _answers(f"http://127.0.0.1:{port}/") else "another program"
            return Finding("Port", f"{port} is used by {who}; the next free one is taken", "note")
    return Finding("Port", f"{port} is free")
