"""Work in a thread of its own whose words are heard as they are said, for a library that calls
back and cannot yield."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Word = TypeVar("Word")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised inside the work where nobody wants it any more."""


class Heard(Generic[Word]):
    """What the work gets: `say` for a word, `gone` for whether the listener has left."""

    def __init__(self) -> None:
        self.words: queue.SimpleQueue[tuple[Word] | None] = queue.SimpleQueue()
        self.closed = threading.Event()

    def say(self, word: Word) -> None:
        self.words.put((word,))

    def gone(self) -> bool:
        return self.closed.is_set()


def listen(work: Callable[[Heard[Word]], Result]) -> Generator[Word, None, Result]:
    """Every word of `work`, then its result. What it raises is raised here.

    Closed early, it waits until the work has seen `gone` and ended.
    """
    heard: Heard[Word] = Heard()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(heard))
        except BaseException as error:
            errors.append(error)
        heard.words.put(None)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    try:
        while (word := heard.words.get()) is not None:
            yield word[0]
    finally:
        heard.closed.set()
        thread.join()
    if errors:
        raise errors.pop()  # not kept: its frames hold what the work was done with
    return results[0]
