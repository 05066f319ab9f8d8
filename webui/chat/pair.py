"""Side by side: one question, two answers, and a vote that decides which one the talk goes on with.

The two are ordinary versions of an answer, each marked with the id of the other. While they are the
newest and nobody has voted they are shown beside each other, also after a reload.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from backends.base import Refused
from backends.chat.usage import draw_seed
from webui.answers import Answer
from webui.bench import Bench
from webui.chat.turns import Asked, Wish, answer_behind, prepare
from webui.chat.view import Shown
from webui.store import Message

Vote = Literal["left", "right", "alike"]
MARK = "beside"  # in a message's extra: the id of the answer that stands beside it


@dataclass(frozen=True)
class Pair:
    """Two answers to one question. `shown` is the branch that leads to them."""

    left: Message
    right: Message
    shown: Shown

    @property
    def ids(self) -> tuple[str, str]:
        return self.left.id, self.right.id


def begin_pair(bench: Bench, wish: Wish, left: Asked, right: Asked) -> list[Answer]:
    """Start both answers, at once where the card holds both models, else one after the other.

    They get one seed. Raises Refused, or ValueError with two sentences.
    """
    question = prepare(bench, wish, left)
    if question is None or question.role != "user":
        raise Refused("There is no question to answer twice.", "Write a message.")
    seed = draw_seed(int(left.settings.get("seed", -1)))
    left, right = (replace(a, settings={**a.settings, "seed": seed}) for a in (left, right))
    together = bench.fits_together((left.listed, left.options), (right.listed, right.options))
    first = answer_behind(bench, question, left, f"{wish.visitor}:left")
    second = answer_behind(
        bench, question, right, f"{wish.visitor}:right", after=None if together else first
    )
    for one, other in ((first, second), (second, first)):
        known = bench.store.message(one.message)
        if known:
            bench.store.set_extra(one.message, {**known.extra, MARK: other.message})
    return [first, second]


def open_pair(bench: Bench, shown: Shown) -> Pair | None:
    """The two answers at the end of a branch that wait for a vote."""
    last = shown.messages[-1] if shown.messages else None
    if last is None or not last.extra.get(MARK) or last.vote:
        return None
    other = bench.store.message(str(last.extra[MARK]))
    if other is None or other.vote or other.parent != last.parent:
        return None
    left, right = sorted((last, other), key=lambda m: int(m.id))
    return Pair(left, right, replace(shown, messages=shown.messages[:-1]))


def decide(bench: Bench, pair: Pair, vote: Vote) -> None:
    """Keep the vote; the conversation goes on with the better one, or with the left of equals."""
    better, worse = (pair.right, pair.left) if vote == "right" else (pair.left, pair.right)
    if vote == "alike":
        for one in (better, worse):
            bench.store.set_extra(one.id, {k: v for k, v in one.extra.items() if k != MARK})
    else:
        bench.store.vote(better.id, 1)
        bench.store.vote(worse.id, -1)
    bench.store.show_branch(better.id)
