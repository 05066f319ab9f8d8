"""What every chat backend takes: messages and how to answer them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from backends.chat.window import Count, Window, fit
from backends.params import Params, setting

MOST_ADAPTERS = 8


@dataclass(frozen=True)
class Message:
    """One turn. NUL bytes and broken surrogates are replaced: no tokenizer survives them."""

    role: Literal["system", "user", "assistant"]
    content: str

    def __post_init__(self) -> None:
        clean = self.content.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
        object.__setattr__(self, "content", clean)


@dataclass(frozen=True)
class AdapterUse(Params):
    """An adapter for one answer. At weight 0 the answer is the base model's own."""

    ref: str = setting("", "Adapter")  # a ModelRef as text
    weight: float = setting(1.0, "Weight", min=-2.0, max=2.0, step=0.05)


@dataclass(frozen=True)
class ChatParams(Params):
    """One answer. The last message is the user's; `system` stands before them all."""

    messages: tuple[Message, ...] = field(
        default=(), metadata={"label": "Messages", "hidden": True}
    )
    system: str = setting(
        "", "System prompt", lines=3, help="Who the model is and how it should answer."
    )
    temperature: float = setting(
        0.7, "Temperature", min=0.0, max=2.0, step=0.05,
        help="0 always takes the likeliest word; higher is more varied.",
    )  # fmt: skip
    top_p: float = setting(
        0.95, "Top-p", min=0.0, max=1.0, step=0.01,
        help="Only the likeliest words that together have this probability are drawn from.",
    )  # fmt: skip
    top_k: int = setting(
        40, "Top-k", min=0, max=500, step=1, advanced=True,
        help="Only this many of the likeliest words are drawn from. 0: no limit.",
    )  # fmt: skip
    min_p: float = setting(
        0.05, "Min-p", min=0.0, max=1.0, step=0.01, advanced=True,
        help="Words less likely than this share of the likeliest one are left out.",
    )  # fmt: skip
    repetition_penalty: float = setting(
        1.0, "Repetition penalty", min=0.5, max=2.0, step=0.01, advanced=True,
        help="Above 1, words already used become less likely. 1: off.",
    )  # fmt: skip
    max_new_tokens: int = setting(
        512, "Max new tokens", min=1, max=32768, step=1, help="The longest answer, in tokens."
    )
    seed: int = setting(
        -1, "Seed", min=-1, max=2**31 - 1, advanced=True,
        help="The same seed gives the same answer again. -1 draws a new one.",
    )  # fmt: skip
    stop: tuple[str, ...] = setting(
        (), "Stop strings", advanced=True, lines=2,
        help="The answer ends where one of these appears. One on each line.",
    )  # fmt: skip

    when_full: Literal["drop", "refuse"] = setting(
        "drop", "When the context is full", advanced=True,
        choices=(("drop", "Leave out the oldest messages"), ("refuse", "Refuse the message")),
        help="What happens when the conversation is longer than the model can read at once.",
    )  # fmt: skip
    count_only: bool = setting(
        False, "Only count the prompt's tokens", hidden=True,
        help="No answer is written: the usage says how long the prompt is.",
    )  # fmt: skip
    adapters: tuple[AdapterUse, ...] = setting((), "Adapters", hidden=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adapters(self.adapters)
        spoken = [m for m in self.messages if m.role != "system"]
        if not spoken or (spoken[-1].role == "user" and not spoken[-1].content.strip()):
            raise ValueError("The message is empty. Write something to send.")
        if any(not s for s in self.stop):
            raise ValueError("A stop string is empty. Remove the empty line.")

    def conversation(self) -> list[dict[str, Any]]:
        """All messages as chat templates take them, the system prompt first where there is one."""
        turns = [{"role": m.role, "content": m.content} for m in self.messages]
        if self.system.strip() and not any(t["role"] == "system" for t in turns):
            turns.insert(0, {"role": "system", "content": self.system})
        return turns

    def window(self, count: Count, context: int) -> Window:
        """What of `conversation` the model is shown. Raises Refused, see `backends.chat.window`."""
        turns = self.conversation()
        if self.count_only:
            return Window(turns, count(turns))
        return fit(turns, count, context, self.max_new_tokens, self.when_full == "drop")


def _check_adapters(adapters: tuple[AdapterUse, ...]) -> None:
    if len(adapters) > MOST_ADAPTERS:
        raise ValueError(f"These are {len(adapters)} adapters. Attach at most {MOST_ADAPTERS}.")
    if len({one.ref for one in adapters}) < len(adapters):
        raise ValueError("An adapter is attached twice. Give it one weight.")
