"""The hub token: one file in the home that only its owner can read. It is never logged.

It goes to the hub's host, and by environment into the process that downloads; nowhere else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from backends.base import Refused
from backends.models import hub, library
from backends.runtime.process import make_private

FORM = re.compile(r"[A-Za-z0-9_.-]{8,200}")


def path() -> Path:
    return library.home() / "hub-token"


def read() -> str:
    """The token, "" where there is none or the file cannot be read."""
    try:
        token = path().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return token if FORM.fullmatch(token) else ""


def save(token: str) -> None:
    """Keep it. Raises Refused where it cannot be one, or cannot be written."""
    token = token.strip()
    if not FORM.fullmatch(token):
        raise Refused(
            "This is not a token of the hub.",
            "Copy one, it begins with hf_, from https://huggingface.co/settings/tokens.",
        )
    file = path()
    partial = file.with_name("hub-token.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            make_private(partial)  # before there is anything in it
            out.write(token + "\n")
        partial.replace(file)
    except OSError as error:
        raise Refused(
            f"The token could not be kept ({error.strerror}).", f"Make {file.parent} writable."
        ) from None


def remove() -> None:
    """Forget it. Nothing happens where there is none."""
    try:
        path().unlink(missing_ok=True)
    except OSError as error:
        raise Refused(
            f"The token could not be removed ({error.strerror}).", f"Delete {path()} by hand."
        ) from None


def check(token: str = "") -> str:
    """The account of `token`, or of the kept one. Raises HubError, Refused where there is none."""
    token = token.strip() or read()
    if not FORM.fullmatch(token):
        raise Refused("No token is set.", "Put one in first.")
    return hub.whoami(token)


def shown() -> str:
    """What may be shown of the kept token: its beginning and its end, or nothing."""
    token = read()
    return f"{token[:3]}…{token[-4:]}" if len(token) >= 16 else "…" if token else ""
