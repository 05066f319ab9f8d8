"""Ends of answers that could not be saved: shown all the same, and tried again until they are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from webui.store.schema import Message, State

RETRY = 2.0  # seconds between two attempts


@dataclass(frozen=True)
class Ended:
    """The end of an answer that could not be saved yet, and why not."""

    text: str
    state: State
    usage: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    extra: dict[str, Any] | None = None
    problem: str = ""

    def over(self, message: Message) -> Message:
        """The message as it will be, with the trouble in its note."""
        extra = message.extra if self.extra is None else self.extra
        return replace(
            message, text=self.text, state=self.state, usage=self.usage, extra=extra,
            note=f"{self.note} {self.problem}".strip(),
        )  # fmt: skip


class Ends:
    """Saves each with `write(message, ended)`, which returns what went wrong, or nothing.

    Safe from any thread. A thread of its own tries again while there is something to save.
    """

    def __init__(self, write: Callable[[str, Ended], str]) -> None:
        self.write = write
        self._unsaved: dict[str, Ended] = {}
        self._saving, self._saver = threading.Lock(), False  # is a thread trying again?
        self._closed = threading.Event()

    def save(self, message: str, ended: Ended) -> str:
        """Returns what went wrong, or nothing; then it is tried again later."""
        problem = self.write(message, ended)
        with self._saving:
            self._unsaved.pop(message, None)
            if problem:
                self._unsaved[message] = replace(ended, problem=problem)
                if not self._saver:
                    self._saver = True
                    threading.Thread(target=self._keep_saving, name="save", daemon=True).start()
        return problem

    def over(self, message: Message) -> Message:
        """The message as it is, though the file may not know yet."""
        ended = self._unsaved.get(message.id)
        return ended.over(message) if ended else message

    def close(self) -> None:
        """Try a last time."""
        self._closed.set()
        self._save_again()

    def _keep_saving(self) -> None:
        while not self._closed.wait(RETRY):
            self._save_again()
            with self._saving:
                if not self._unsaved:
                    self._saver = False
                    return

    def _save_again(self) -> None:
        for message, ended in list(self._unsaved.items()):
            if self._unsaved.get(message) is ended and not self.write(message, ended):
                with self._saving:
                    if self._unsaved.get(message) is ended:
                        del self._unsaved[message]
