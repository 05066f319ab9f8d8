"""What the model is shown: the whole conversation or, where it is too long, its newest turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backends.chat import usage

Turn = dict[str, Any]
Count = Callable[[list[Turn]], int]
PARTS = 4  # of the context: old turns leave a quarter of it at a time


@dataclass(frozen=True)
class Window:
    """`turns` make `tokens` tokens of prompt; the `dropped` oldest were left out."""

    turns: list[Turn]
    tokens: int
    dropped: int = 0

    @property
    def notice(self) -> str:
        """What the reader should know; nothing where everything was shown."""
        if not self.dropped:
            return ""
        were = "message was" if self.dropped == 1 else f"{self.dropped} messages were"
        return f"The context is full: the oldest {were} left out of this answer."


def fit(turns: Sequence[Turn], count: Count, context: int, answer: int, drop: bool) -> Window:
    """As much of a conversation as leaves room for an answer of up to `answer` tokens.

    count: how many tokens a list of turns makes as a prompt
    context: what the model takes, in tokens; the room kept is a quarter of it at most
    drop: whether old turns may leave. System messages and the last question always stay

    Raises Refused where what must stay does not fit, and where nothing may leave.
    """
    whole = count(list(turns))
    room = min(answer, context // PARTS)
    if not drop or whole + room <= context:
        usage.check_prompt(whole, context)
        return Window(list(turns), whole)
    system = [t for t in turns if t["role"] == "system"]
    spoken = [t for t in turns if t["role"] != "system"]
    starts = [i for i, t in enumerate(spoken) if t["role"] == "user" and i]

    def after(start: int) -> Window:
        kept = [*system, *spoken[start:]]
        return Window(kept, count(kept), start)

    # More leaves than must: else every later turn would push another one out, the prompt would
    # begin anew each time, and nothing of what was read before could be used again.
    surplus, part = whole + room - context, max(1, context // PARTS)
    goal = whole - -(-surplus // part) * part
    windows = _Windows(starts, after)
    window = windows.first_below(goal) or windows.first_below(context - room)
    if window is None:  # not even the last question leaves that much room
        fits = whole < context
        window = Window(list(turns), whole) if fits else windows.last() or Window([], whole)
    usage.check_prompt(window.tokens, context)
    return window


class _Windows:
    """The windows that begin at each of `starts`, later ones shorter; counted when asked for."""

    def __init__(self, starts: list[int], after: Callable[[int], Window]) -> None:
        self.starts, self.after = starts, after
        self.known: dict[int, Window] = {}

    def at(self, index: int) -> Window:
        if index not in self.known:
            self.known[index] = self.after(self.starts[index])
        return self.known[index]

    def first_below(self, tokens: int) -> Window | None:
        """The longest one of at most `tokens`; each look halves what is left."""
        low, high = 0, len(self.starts)
        while low < high:
            middle = (low + high) // 2
            if self.at(middle).tokens <= tokens:
                high = middle
            else:
                low = middle + 1
        return self.at(low) if low < len(self.starts) else None

    def last(self) -> Window | None:
        return self.at(len(self.starts) - 1) if self.starts else None
