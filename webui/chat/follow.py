"""Which page looks at what, and how a page follows the answers of the conversation it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Refused
from webui.answers import Answer
from webui.bench import Bench
from webui.chat.view import Shown

VIEWS = 1000  # open pages to keep in mind


class Views:
    """What each browser page looks at: a follower of something else keeps quiet."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[int, str]] = {}
        self._begun: dict[str, Follow] = {}

    def look(
        self, page: str, conversation: str, answers: Sequence[Answer] = (), pair: bool = False
    ) -> None:
        """`page` shows this conversation now, and will follow these answers in it.

        pair: they stand side by side, one of them perhaps ended already
        """
        number, _ = self._looks.pop(page, (0, ""))
        self._looks[page] = (number + 1, conversation)
        self._begun.pop(page, None)
        if answers:
            self._begun[page] = Follow(self, page, number + 1, conversation, tuple(answers), pair)
        while len(self._looks) > VIEWS:
            oldest = next(iter(self._looks))
            del self._looks[oldest]
            self._begun.pop(oldest, None)

    def at(self, page: str) -> str:
        """The conversation that a page shows; empty where it has shown none yet."""
        return self._looks.get(page, (0, ""))[1]

    def knows(self, page: str) -> bool:
        return page in self._looks

    def number(self, page: str) -> int:
        return self._looks.get(page, (0, ""))[0]

    def begun(self, page: str, pair: bool) -> Follow | None:
        """What the page is to follow now, once; `pair`: answers side by side, else others alone."""
        found = self._begun.get(page)
        return self._begun.pop(page) if found and found.pair == pair else None


@dataclass(frozen=True)
class Follow:
    """One page's look at answers under way, until it looks at something else."""

    views: Views
    page: str
    number: int
    conversation: str
    answers: tuple[Answer, ...]
    pair: bool

    @property
    def current(self) -> bool:
        return self.views.number(self.page) == self.number


def shown_of(bench: Bench, conversation: str, key: str) -> Shown:
    """The open branch; empty where the store cannot be read, which the list says."""
    if not conversation:
        return Shown(key=key)
    try:
        return Shown(bench.store.messages(conversation), bench.store.children(conversation), key)
    except Refused:
        return Shown(key=key)
