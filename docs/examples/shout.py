"""The example of docs/adding-a-backend.md: answers in capitals, word by word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backends.base import Backend, Card, ModelRef, Refused
from backends.chat.params import ChatParams
from backends.events import Done, Event, Progress, Text
from backends.params import Params, setting


@dataclass(frozen=True)
class ShoutOptions(Params):
    """What one load takes. Each field is a line of the form, checked by its bounds."""

    marks: int = setting(1, "Exclamation marks", min=0, max=10, help="At the end of an answer.")


class Shout(Backend):
    """One voice in memory."""

    card = Card(
        name="shout",
        task="chat",
        params=ChatParams,
        load_options=ShoutOptions,
        label="Shout (an example)",
    )

    def load(self, model: ModelRef, options: ShoutOptions) -> None:
        # Heavy libraries are imported here, never at the top: the page reads this file.
        self.report(Progress(1, 1, "clearing the throat"))
        self.end = "!" * options.marks

    def run(self, params: ChatParams) -> Iterator[Event]:
        words = params.messages[-1].content.upper().split()
        if "WHISPER" in words:
            raise Refused("This model cannot whisper.", "Ask it something loud.")
        for i, word in enumerate(words[: params.max_new_tokens]):
            yield Text(f" {word}" if i else word)
        yield Text(self.end)
        yield Done(usage={"completion_tokens": len(words), "finish_reason": "stop"})

    def unload(self) -> None:
        del self.end
