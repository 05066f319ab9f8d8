"""Answers belong to their conversation, not to the browser tab that asked.

An answer runs as a task of the server and is written to the store while it grows. A handler only
watches; a reload or a second browser tab watches the same answer. One that nobody watches for
`ALONE` seconds is stopped, its text kept, so that a vanished visitor frees the card.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from backends.events import Done, Failed, Notice, Progress, Text
from backends.models.library import Listed
from backends.runtime.child import Call
from webui.gate import Busy

if TYPE_CHECKING:
    from webui.bench import Bench

ALONE = 3.0  # seconds without a watcher
OPENING = 5.0  # seconds that a page may take from its first request until it watches
SAVE_EVERY = 0.25  # seconds between two writes of a growing answer
PACE, SLOW_PACE = 0.06, 0.15  # seconds between two looks at it; the second for long answers
IDLE = 1.0  # seconds
LONG_CHARACTERS = 24_000  # 4,000 tokens and more
State = Literal["waiting", "loading", "running", "done", "stopped", "failed"]
OVER = ("done", "stopped", "failed")


@dataclass
class Answer:
    """One answer on its way. `state`: waiting, loading, running, then done, stopped or failed."""

    conversation: str
    message: str
    text: str = ""
    state: State = "waiting"
    status: str = "Starting"  # what it does at the moment, for people
    progress: Progress | None = None
    note: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    watchers: int = 0
    alone_since: float = field(default_factory=time.monotonic)
    call: Call | None = None
    task: asyncio.Task[None] | None = None
    stopping: bool = False
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.state in OVER

    def bump(self) -> None:
        self.version += 1
        self.changed.set()

    async def watch(self) -> AsyncGenerator[Answer, None]:
        """Yields the answer each time it changed, see `watch`."""
        async with contextlib.aclosing(watch(self)) as changes:
            async for _ in changes:
                yield self


async def watch(*answers: Answer) -> AsyncGenerator[None, None]:
    """Yields each time one of them changed, at a pace that a browser can draw; ends after all do.

    At least once in `IDLE` seconds even so: only a handler that yields is closed when its browser
    is gone.
    """
    for answer in answers:
        answer.watchers += 1
    try:
        while True:
            seen = [a.version for a in answers]
            yield
            if [a.version for a in answers] == seen:
                if all(a.over for a in answers):
                    return
                await _any_change(answers)
            # Also where it changed while it was drawn: at 1,000 tokens/s it always has.
            long = sum(len(a.text) for a in answers) >= LONG_CHARACTERS
            await asyncio.sleep(SLOW_PACE if long else PACE)
    finally:
        for answer in answers:
            answer.watchers -= 1
            answer.alone_since = time.monotonic()


async def _any_change(answers: tuple[Answer, ...]) -> None:
    """Wait until one of them changes, at most `IDLE` seconds."""
    for answer in answers:
        answer.changed.clear()
    waits = [asyncio.ensure_future(a.changed.wait()) for a in answers if not a.over]
    try:
        await asyncio.wait(waits, timeout=IDLE, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Answers:
    """All answers under way, by the message that they fill."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.running: dict[str, Answer] = {}
        self._opening = -OPENING

    def expect_a_watcher(self) -> None:
        """A page is being opened, which may be about to watch any of them."""
        self._opening = time.monotonic()

    def _given_up(self, answer: Answer) -> bool:
        now = time.monotonic()
        alone = not answer.watchers and now - answer.alone_since > ALONE
        return alone and now - self._opening > OPENING

    def start(
        self,
        conversation: str,
        message: str,
        listed: Listed,
        params: dict[str, Any],
        *,
        options: dict[str, Any] | None = None,
        visitor: str = "owner",
        text: str = "",
        after: Answer | None = None,
    ) -> Answer:
        """Begin to fill `message` (already in the store, state streaming).

        text: what it says already, where an answer is continued
        after: the answer whose end this one waits for, where both do not fit at once
        """
        answer = Answer(conversation, message, text)
        self.running[message] = answer
        answer.task = asyncio.get_running_loop().create_task(
            self._carry(answer, listed, params, options, visitor, after)
        )
        return answer

    def of(self, conversation: str) -> Answer | None:
        """The answer under way in a conversation, if there is one; of two the first."""
        return next(iter(self.all_of(conversation)), None)

    def all_of(self, conversation: str) -> list[Answer]:
        """All answers under way in a conversation: two, where two models answer side by side."""
        return [a for a in self.running.values() if a.conversation == conversation]

    def stop(self, answer: Answer) -> None:
        """End it and keep its text. Returns at once; watchers see the end."""
        answer.stopping = True
        if answer.call:
            answer.call.cancel()
        elif answer.task:
            answer.task.cancel()

    async def stop_all(self) -> None:
        tasks = [a.task for a in self.running.values() if a.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(
        self,
        answer: Answer,
        listed: Listed,
        params: dict[str, Any],
        options: dict[str, Any] | None,
        visitor: str,
        after: Answer | None,
    ) -> None:
        keeper = asyncio.get_running_loop().create_task(self._keep(answer))

        def on_call(call: Call) -> None:
            answer.call = call
            if answer.stopping:
                call.cancel()

        try:
            if after and after.task:
                answer.status = "Waiting for the other answer: both do not fit at once"
                answer.bump()
                await asyncio.wait({after.task})
            async with contextlib.aclosing(
                self.bench.generate(listed, params, visitor, options=options, on_call=on_call)
            ) as events:
                async for event in events:
                    self._take(answer, event)
        except asyncio.CancelledError:
            answer.state = "stopped"
        except Busy as busy:
            answer.state, answer.note = "failed", str(busy)
        except Exception as error:
            logging.getLogger(__name__).exception("answer %s", answer.message)
            answer.state = "failed"
            answer.note = f"Something went wrong in Werkbank itself ({error}). Send it again."
        finally:
            keeper.cancel()
            self._finish(answer)

    def _take(self, answer: Answer, event: Any) -> None:
        if isinstance(event, Text):
            answer.state, answer.status, answer.progress = "running", "", None
            answer.text += event.delta
        elif isinstance(event, Progress):
            answer.state, answer.progress = "loading", event
            answer.status = event.note or "Loading the model"
        elif isinstance(event, Notice):
            answer.note = event.message
        elif isinstance(event, Failed):
            answer.state, answer.note = "failed", str(event)
            answer.usage["detail"] = event.detail
        elif isinstance(event, Done):
            answer.state = "stopped" if event.cancelled else "done"
            answer.usage = dict(event.usage)
        else:
            answer.state, answer.status = "waiting", f"Busy: position {event.position}"
        answer.bump()

    def _finish(self, answer: Answer) -> None:
        end = answer.state
        if end != "done" and end != "failed":
            end = answer.state = "stopped"
        answer.call = None
        self.running.pop(answer.message, None)
        problem = self.bench.store.finish_message(
            answer.message, answer.text, end, answer.usage, answer.note
        )
        if problem:
            answer.note = f"{answer.note} {problem}".strip()
        answer.bump()

    async def _keep(self, answer: Answer) -> None:
        """Save it as it grows, and stop it when nobody has watched for a while."""
        saved = problem = ""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            if answer.text != saved:
                saved = answer.text
                # In a thread: another program may hold the file for seconds.
                before, problem = (
                    problem,
                    await asyncio.to_thread(self.bench.store.append_text, answer.message, saved),
                )
                if problem or (before and answer.note == before):
                    answer.note = problem
                    answer.bump()
            if self._given_up(answer):
                answer.note = "Stopped, since nobody was watching any more."
                self.stop(answer)
                return
