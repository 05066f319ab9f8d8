"""What is shared, checked: from the dialog and from the command line."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from backends.base import Refused
from backends.models.library import Listed
from webui.bench import Bench, complete, sentences
from webui.demo.passphrase import check_passphrase
from webui.demo.quota import Terms
from webui.demo.share import Sharing
from webui.demo.state import Offer

SPANS = {15 * 60: "15 minutes", 2 * 3600: "2 hours", 24 * 3600: "24 hours"}  # seconds
WATCH = 0.2  # seconds


def make_offer(
    listed: Listed,
    options: dict[str, Any],
    settings: dict[str, Any],
    *,
    phrase: str = "",
    seconds: int = 2 * 3600,
    where: str = "tunnel",
) -> Offer:
    """Raises Refused or ValueError, in two sentences."""
    if listed.problem:
        raise Refused(*sentences(listed.problem))
    if seconds not in SPANS or where not in ("tunnel", "lan"):
        raise Refused("This cannot be shared so.", "Choose the time and for whom from the lists.")
    return Offer(
        listed, complete(listed.backend, options), dict(settings), check_passphrase(phrase),
        "lan" if where == "lan" else "tunnel", Terms(seconds=seconds),
    )  # fmt: skip


def offer_by_name(bench: Bench, name: str) -> Offer:
    """A chat model as the catalogue sets it up. Raises Refused for one that is not here."""
    listed = next((m for m in bench.models("chat") if name in (m.id, str(m.ref))), None)
    if listed is None:
        known = ", ".join(m.id for m in bench.models("chat") if not m.problem)
        raise Refused(f"There is no chat model {name[:80]!r} here.", f"Known are: {known}.")
    return make_offer(listed, {}, {})


async def announce(sharing: Sharing) -> None:
    """Print how the start from the command line goes: the address, or two sentences."""
    while sharing.state == "starting":
        await asyncio.sleep(WATCH)
    demo = sharing.demo
    if sharing.state == "on" and demo:
        until = time.strftime("%H:%M", time.localtime(demo.until))
        print(
            f"Shared at {demo.url} with the passphrase {demo.offer.passphrase} until {until}",
            flush=True,
        )
    elif sharing.problem:
        print(sharing.problem, file=sys.stderr, flush=True)
