"""What every chat backend takes: messages and how to answer them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from backends.adapter_use import AdapterUse, check_adapters
from backends.chat import usage
from backends.chat.window import Count, Window, fit
from backends.params import Params, setting


@dataclass(frozen=True)
class ToolCall:
    """What the assistant asked a tool: the function's name and its arguments, by name."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn. NUL bytes and broken surrogates are replaced: no tokenizer survives them.

    tool_calls: what an assistant's turn asked tools
    tool_call_id, name: of a turn of the role tool: which call it answers, and which tool it is
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        clean = self.content.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
        object.__setattr__(self, "content", clean)

    def turn(self) -> dict[str, Any]:
        """The message as chat templates take it, in the shape of transformers' documentation."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.role == "tool":
            turn |= {"tool_call_id": self.tool_call_id, "name": self.name}
        return turn


@dataclass(frozen=True)
class ChatParams(Params):
    """One answer. The last message is the user's; `system` stands before them all.

    Where the last one is the assistant's, its text is continued; `prompt` is continued as it is.
    """

    messages: tuple[Message, ...] = field(
        default=(), metadata={"label": "Messages", "hidden": True}
    )
    prompt: str = setting("", "Prompt", hidden=True, help="Text to continue, without a template.")
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
    frequency_penalty: float = setting(
        0.0, "Frequency penalty", min=-2.0, max=2.0, step=0.1, hidden=True,
        help="Taken from a word's score for each time that it was used, in the prompt too.",
    )  # fmt: skip
    presence_penalty: float = setting(
        0.0, "Presence penalty", min=-2.0, max=2.0, step=0.1, hidden=True,
        help="Taken once from the score of every word that was used, in the prompt too.",
    )  # fmt: skip
    logit_bias: dict[str, float] = setting(
        {}, "Logit bias", hidden=True, help="Token ids, and what is added to their scores."
    )
    top_logprobs: int = setting(
        -1, "Log probabilities", min=-1, max=20, hidden=True,
        help="How many of the likeliest tokens are told at each step, as Items. -1: none at all.",
    )  # fmt: skip
    json_schema: dict[str, Any] | None = field(
        default=None, metadata={"label": "JSON schema", "hidden": True,
                                "help": "The answer is JSON that fits it."},
    )  # fmt: skip
    tools: tuple[dict[str, Any], ...] = field(
        default=(), metadata={"label": "Tools", "hidden": True,
                              "help": "Functions that it may call, as OpenAI describes them."},
    )  # fmt: skip
    tool_choice: str = setting(
        "auto",
        "Tool choice",
        hidden=True,
        help="auto: call a tool or answer. required: call one. Else the name of the one to call.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_adapters(self.adapters)
        if any(not s for s in self.stop):
            raise ValueError("A stop string is empty. Remove the empty line.")
        for token, bias in self.logit_bias.items():
            known = token.isdecimal() and len(token) <= 9  # llama.cpp's ids have 32 bits
            if not known or type(bias) not in (int, float) or not -100 <= bias <= 100:
                raise ValueError(
                    f"Logit bias cannot be {token[:20]!r}: {bias!r}. Give token ids, each with a "
                    "number from -100 to 100."
                )
        if self.prompt:
            if self.messages:
                raise ValueError("There are messages and a prompt. Send one of them.")
            clean = self.prompt.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
            object.__setattr__(self, "prompt", clean)
            return
        spoken = [m for m in self.messages if m.role != "system"]
        if not spoken or (spoken[-1].role == "user" and not spoken[-1].content.strip()):
            raise ValueError("The message is empty. Write something to send.")
        if spoken[-1].tool_calls:
            raise ValueError("The last message calls a tool. Send what the tool answered after it.")

    def conversation(self) -> list[dict[str, Any]]:
        """All messages as chat templates take them, the system prompt first where there is one."""
        turns = [m.turn() for m in self.messages]
        if self.system.strip() and not any(t["role"] == "system" for t in turns):
            turns.insert(0, {"role": "system", "content": self.system})
        return turns

    def window(self, count: Count, context: int) -> Window:
        """What of `conversation` the model is shown. Raises Refused, see `backends.chat.window`."""
        turns = [] if self.prompt else self.conversation()
        if self.count_only or self.prompt:
            window = Window(turns, count(turns))
            if not self.count_only:
                usage.check_prompt(window.tokens, context)
            return window
        return fit(turns, count, context, self.max_new_tokens, self.when_full == "drop")
