"""What is shared, and one demo while it lives."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.models.library import Listed
from webui.demo.calls import Calls
from webui.demo.quota import Lockout, Terms, Visitors

Where = Literal["tunnel", "lan"]


@dataclass(frozen=True)
class Offer:
    """A model as its owner has set it up. Visitors change nothing of it.

    `options` are those of its load, `settings` the ones of an answer, system prompt included.
    """

    listed: Listed
    options: dict[str, Any]
    settings: dict[str, Any]
    passphrase: str
    where: Where = "tunnel"
    terms: Terms = field(default_factory=Terms)


@dataclass
class Demo:
    """One demo while it lives. `ended` says why, from the moment on that it is over."""

    offer: Offer
    visitors: Visitors
    hosts: set[str] = field(default_factory=set)  # as which it may be called
    scheme: str = "http"
    proxied: bool = False  # a tunnel stands before it, and says who calls
    url: str = ""
    ended: str = ""
    lockout: Lockout = field(default_factory=Lockout)
    calls: Calls = field(default_factory=Calls)
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    until: float = 0.0  # by the clock on the wall: a computer that slept must not extend it

    def __post_init__(self) -> None:
        self.until = self.until or time.time() + self.offer.terms.seconds

    @property
    def seconds_left(self) -> int:
        return max(0, round(self.until - time.time()))
