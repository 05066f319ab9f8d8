"""What a visitor may do, who the visitors are, and who is locked out. In memory alone."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from webui.answers import Answer

HERE = 5.0  # seconds since its page last asked: a visitor counts as here
SILENT = 60.0  # seconds: who has written nothing and is away so long gives way to a new one
ADDRESSES = 10_000  # remembered at most


@dataclass(frozen=True)
class Terms:
    """The limits of one demo. They are fixed at its start."""

    seconds: int = 2 * 3600
    messages: int = 20  # of one visitor
    tokens: int = 512  # new ones, of one answer
    characters: int = 2_000  # of one message
    history: int = 6_000  # characters of earlier turns that the model sees
    visitors: int = 50


@dataclass
class Visitor:
    """One browser that brought the passphrase. Its chat ends with the demo."""

    id: str
    used: int = 0
    turns: list[tuple[str, str]] = field(default_factory=list)  # (question, answer)
    question: str = ""  # of the answer under way
    answer: Answer | None = None
    seen: float = field(default_factory=time.monotonic)


@dataclass
class Visitors:
    """All of one demo."""

    terms: Terms
    known: dict[str, Visitor] = field(default_factory=dict)

    def enter(self) -> Visitor | None:
        """A new one, or None where the demo is full."""
        if len(self.known) >= self.terms.visitors:
            idle = [v for v in self.known.values() if not v.used and not v.turns]
            oldest = min(idle, key=lambda v: v.seen, default=None)
            if oldest is None or time.monotonic() - oldest.seen < SILENT:
                return None
            del self.known[oldest.id]
        visitor = Visitor(secrets.token_urlsafe(24))
        self.known[visitor.id] = visitor
        return visitor

    def left(self, visitor: Visitor) -> int:
        """How many messages it may still send."""
        return max(0, self.terms.messages - visitor.used)

    @property
    def here(self) -> int:
        now = time.monotonic()
        return sum(now - visitor.seen < HERE for visitor in self.known.values())

    @property
    def messages(self) -> int:
        return sum(visitor.used for visitor in self.known.values())


class Lockout:
    """Wrong passphrases by address: after `tries` of them it is locked, each time twice as long."""

    def __init__(
        self,
        tries: int = 5,
        seconds: float = 60.0,
        longest: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tries, self.seconds, self.longest, self.clock = tries, seconds, longest, clock
        # By address: wrong ones since the last lock, locks so far, locked until when.
        self._known: OrderedDict[str, tuple[int, int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        return max(0.0, self._known.get(address, (0, 0, 0.0))[2] - self.clock())

    def wrong(self, address: str) -> int:
        """Count one; returns how many tries are left before it is locked."""
        count, locks, until = self._known.pop(address, (0, 0, 0.0))
        count += 1
        if count >= self.tries:
            until = self.clock() + min(self.longest, self.seconds * 2**locks)
            count, locks = 0, min(locks + 1, 16)
        self._known[address] = count, locks, until
        while len(self._known) > ADDRESSES:
            self._known.popitem(last=False)
        return self.tries - count if count else 0

    def right(self, address: str) -> None:
        self._known.pop(address, None)
