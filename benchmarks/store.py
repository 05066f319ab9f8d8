"""A long memory: the list, a search and opening, with many conversations in the database."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Bar, Plan, Row
from webui.store import Store

LIST = Bar("store: the list of conversations", 200, " ms", digits=1)
SEARCH = Bar("store: a search, the slowest of them", 200, " ms", digits=1)
OPEN = Bar("store: open a conversation", 200, " ms", digits=1)
BARS = (LIST, SEARCH, OPEN)
TURNS = 100  # messages of a conversation
LONGEST = 5000  # messages of the longest one
WORDS = 40  # of a message, on average
VOCABULARY = 50_000
REPEATS = 5
HASH = "INSERT INTO message_words (message_words, rank) VALUES ('hashsize', {})"


def measure(plan: Plan) -> Iterator[Row]:
    path = plan.home("store") / "werkbank.db"
    began = time.monotonic()
    vocabulary = words(random.Random(1))
    conversations = fill(path, plan.conversations, vocabulary)
    filled = time.monotonic() - began
    size = f"{plan.conversations:,} conversations, {plan.conversations * TURNS:,} messages"
    plan.say(f"  {size} made in {filled:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
    store = Store(path)
    try:
        yield LIST.row(milliseconds(lambda: store.conversations(60)), size)
        took = {t: milliseconds(partial(store.search, t, 60)) for t in queries(vocabulary)}
        slowest = max(took, key=lambda text: took[text])
        yield SEARCH.row(
            took[slowest],
            f"{size}; {slowest!r}, {len(took)} others {min(took.values()):.1f} ms and more",
            searches=took,
        )
        opened = [milliseconds(partial(store.messages, id)) for id in conversations[:5]]
        yield OPEN.row(
            max(opened),
            f"{size}; {TURNS} messages each, and one of {longest(plan.conversations):,}",
        )
    finally:
        store.close()


def longest(conversations: int) -> int:
    return min(LONGEST, TURNS * conversations // 4)


def milliseconds(call: Callable[[], object]) -> float:
    """The median of a few, after a first one that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def words(dice: random.Random) -> list[str]:
    """A made-up vocabulary, the most frequent first, short ones among them as in a language."""
    syllables = ["".join(p) for p in itertools.product("bdfgklmnprstvw", "aeiou", ["", "n", "r"])]
    made: dict[str, None] = {}
    while len(made) < VOCABULARY:
        length = 1 + min(3, int(dice.expovariate(0.7)) + (len(made) > 200))
        made["".join(dice.choices(syllables, k=length))] = None
    return list(made)


def queries(vocabulary: list[str]) -> list[str]:
    """Frequent, rare and absent words, beginnings of words, several at once."""
    often, rare = vocabulary[0], vocabulary[-1]
    return [
        often, rare, often[:1], often[:2], vocabulary[300][:4], vocabulary[1000][:4],
        vocabulary[900], f"{often} {vocabulary[1]}", f"{often} {rare}", f"{rare} {often[:1]}",
        f"{vocabulary[50]} {vocabulary[60][:4]}", f'"{often} {vocabulary[1]}"', "nothing-of-this",
    ]  # fmt: skip


def fill(path: Path, conversations: int, vocabulary: list[str], seed: int = 2) -> list[str]:
    """Write them in one transaction, through the same triggers as any message.

    Words are drawn by Zipf's law. Every twentieth turn has two branches. Returns the ids, the
    longest conversation first.
    """
    dice = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(vocabulary))))
    spoken = dice.choices(vocabulary, cum_weights=weights, k=2_000_000)
    store = Store(path)
    made: list[str] = []

    def text() -> str:
        count = 1 + int(dice.expovariate(1 / WORDS))
        start = dice.randrange(len(spoken) - count)
        return " ".join(spoken[start : start + count])

    def rows() -> Iterator[tuple[object, ...]]:
        number = 0
        for at, id in enumerate(made):
            parent, position = None, 0
            for turn in range(TURNS if at else longest(conversations)):
                number += 1
                role = "assistant" if position % 2 else "user"
                yield (number, id, parent, position, role, text(), 1e9 + number)
                if turn % 20 != 10:  # else the next turn stands beside this one
                    parent, position = number, position + 1

    with store.database.writing() as db:
        db.execute(HASH.format(64 * 2**20))  # fewer merges while so much comes at once
        for number in range(conversations):
            made.append(f"{number:016x}")
            db.execute(
                "INSERT INTO conversations (id, title, created, updated, model, settings, pinned)"
                " VALUES (?, ?, ?, ?, 'm', ?, ?)",
                (made[-1], text()[:80], 1e9 + number, 1e9 + number, json.dumps({"temperature": 1}),
                 number % 997 == 0),
            )  # fmt: skip
        db.executemany(
            "INSERT INTO messages (id, conversation, parent, position, role, text, state, note,"
            " usage, model, created) VALUES (?, ?, ?, ?, ?, ?, 'done', '', '{}', 'm', ?)",
            rows(),
        )
        db.execute(
            "UPDATE conversations SET head ="
            " (SELECT max(id) FROM messages WHERE conversation = conversations.id)"
        )
        db.execute(HASH.format(2**20))
    store.close()
    return made
