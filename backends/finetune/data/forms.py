"""A row as an `Example`: the one form that checks, lengths and the training see.

Which columns mean what is said by a `Mapping`. What a row has wrong is raised as `Wrong`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.finetune.data.rows import Fault
from backends.finetune.roles import CALL, SPEAKERS, TOOL_SPEAKERS
from backends.params import Params, setting

Form = Literal["chat", "instruction", "text", "preference", "label"]
_ALL_SPEAKERS = {**SPEAKERS, **TOOL_SPEAKERS}
TURN = re.compile(r"(?:\n\n|^\s*)(Human|Assistant):")  # a whole talk in one text, as in HH-RLHF
MANY = 20_000  # messages of one conversation


class Wrong(Exception):
    """A row that is none of the form. `fault` says why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.fault = Fault(kind, text)


@dataclass(frozen=True)
class Mapping(Params):
    """Which column means what; "" for none.

    chat: `messages`. instruction: `prompt` (and `input`, joined by a line break), `answer`.
    text: `text`. preference: `messages` or `prompt`, `chosen`, `rejected`.
    label: `messages`, or `prompt` and `answer`; `label`. `system`, `history`, `tools` go with all.
    """

    form: Form = setting(
        "chat",
        "What a row is",
        choices=(
            ("chat", "a conversation"),
            ("instruction", "a question and its answer"),
            ("text", "plain text"),
            ("preference", "a better and a worse answer"),
            ("label", "an answer that is good or bad"),
        ),
    )
    messages: str = setting("", "Messages", help="A list of messages, each with who and what.")
    prompt: str = setting("", "Question")
    input: str = setting("", "Input", help="Stands behind the question, in a line of its own.")
    answer: str = setting("", "Answer")
    text: str = setting("", "Text")
    chosen: str = setting("", "Better answer")
    rejected: str = setting("", "Worse answer")
    label: str = setting("", "Good or bad")
    system: str = setting("", "System prompt")
    history: str = setting("", "Earlier turns", help="Pairs of question and answer.")
    tools: str = setting("", "Tools")

    def columns(self) -> dict[str, str]:
        """Meaning -> column, of those that are mapped."""
        return {name: column for name, column in vars(self).items() if name != "form" and column}

    def missing(self) -> str:
        """A sentence on what the form still needs; "" where it is whole."""
        needs = {
            "chat": ("messages",),
            "instruction": ("prompt", "answer"),
            "text": ("text",),
            "preference": ("chosen", "rejected"),
            "label": ("label", "messages" if self.messages else "answer"),
        }[self.form]
        labels = [
            self.__dataclass_fields__[n].metadata["label"] for n in needs if not vars(self)[n]
        ]
        return f"Choose the column for: {', '.join(labels)}." if labels else ""


# What may be mapped for each form, the needed first.
MEANINGS: dict[Form, tuple[str, ...]] = {
    "chat": ("messages", "system", "tools"),
    "instruction": ("prompt", "answer", "input", "system", "history", "tools"),
    "text": ("text",),
    "preference": ("prompt", "messages", "chosen", "rejected", "system", "tools"),
    "label": ("prompt", "answer", "messages", "label", "system", "tools"),
}
Message = dict[str, Any]  # role, content; tool_calls; train=False where it is not trained on


@dataclass(slots=True)
class Example:
    """One row in normal form. `chat`, `preference` and `label` have messages, `text` has text.

    In a preference, `messages` is the prompt, and `chosen` and `rejected` are what follows it; with
    a label, `messages` is the prompt and `chosen` the answer that `label` speaks of.
    """

    form: Literal["chat", "text", "preference", "label"]
    messages: list[Message] = field(default_factory=list)
    text: str = ""
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    label: bool | None = None
    tools: list[Any] = field(default_factory=list)

    def every(self) -> list[Message]:
        """All messages: the prompt's, the better answer's, the worse one's."""
        return [*self.messages, *self.chosen, *self.rejected]

    def said(self) -> list[str]:
        """All texts, in order."""
        return [self.text] if self.form == "text" else [m["content"] for m in self.every()]

    def trained(self) -> list[Message]:
        """The messages that the loss sees."""
        if self.form == "chat":
            return [m for m in self.messages if m["role"] == "assistant" and m.get("train", True)]
        return [*self.chosen, *self.rejected]

    def as_row(self) -> dict[str, Any]:
        """As TRL reads it: what `fixes.write` puts in a line."""
        row: dict[str, Any]
        if self.form == "text":
            return {"text": self.text}
        if self.form == "chat":
            row = {"messages": self.messages}
        elif self.form == "preference":
            row = {"prompt": self.messages, "chosen": self.chosen, "rejected": self.rejected}
        else:
            row = {"prompt": self.messages, "completion": self.chosen, "label": self.label}
        return {**row, "tools": self.tools} if self.tools else row


def example(row: dict[str, Any], mapping: Mapping) -> Example:
    """The row in normal form, not yet judged: it may be empty or out of order. Raises Wrong."""
    tools = _tools(row.get(mapping.tools)) if mapping.tools else []
    if mapping.form == "text":
        return Example("text", text=_text(_cell(row, mapping.text), mapping.text))
    if mapping.form == "chat":
        messages = [*_system(row, mapping), *_conversation(row, mapping.messages)]
        return Example("chat", messages, tools=tools)
    if mapping.form == "instruction":
        answer = _answer(_cell(row, mapping.answer), mapping.answer)
        return Example("chat", [*_prompt(row, mapping), *answer], tools=tools)
    if mapping.form == "label":
        return _labelled(row, mapping, tools)
    return _pair(row, mapping, tools)


def _cell(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise Wrong("columns", f"It has no {column!r}.")
    return row[column]


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (int, float)):  # a table's 42, an answer of true
        return json.dumps(value)
    if isinstance(value, list):
        return "\n".join(_part(part, where) for part in value)
    if isinstance(value, dict):
        return _part(value, where)
    raise Wrong("shape", f"{where!r} holds no text.")


def _part(part: Any, where: str) -> str:
    """One part of a content that is a list."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        kind = part.get("type", "text")
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            return str(part["text"])
        if isinstance(kind, str) and kind.startswith(("image", "audio", "video", "input", "bytes")):
            raise Wrong("picture", f"{where!r} has a part of the type {kind!r}.")
    raise Wrong("shape", f"{where!r} holds something that is no text.")


def _system(row: dict[str, Any], mapping: Mapping) -> list[Message]:
    text = _text(row.get(mapping.system), mapping.system) if mapping.system else ""
    return [{"role": "system", "content": text}] if text.strip() else []


def _prompt(row: dict[str, Any], mapping: Mapping) -> list[Message]:
    """The system prompt, earlier turns, and the question; a prompt may be a list of messages."""
    messages = _system(row, mapping)
    if mapping.history:
        messages += _history(row.get(mapping.history), mapping.history)
    if not mapping.prompt:
        return messages
    value = _cell(row, mapping.prompt)
    if _is_messages(value):
        return messages + [message(m, mapping.prompt) for m in value]
    text = _text(value, mapping.prompt)
    if mapping.input and (more := _text(row.get(mapping.input), mapping.input)).strip():
        text = f"{text}\n{more}" if text.strip() else more
    return [*messages, {"role": "user", "content": text}]


def _history(value: Any, where: str) -> list[Message]:
    messages: list[Message] = []
    for turn in value or []:
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise Wrong("shape", f"{where!r} is no list of pairs.")
        for role, text in zip(("user", "assistant"), turn, strict=True):
            messages.append({"role": role, "content": _text(text, where)})
    return messages


def _answer(value: Any, where: str) -> list[Message]:
    if _is_messages(value):
        return [message(m, where) for m in value]
    if isinstance(value, dict) and _is_message(value):
        return [message(value, where)]
    text = _text(value, where)
    if spoken := TURN.split(text)[1:]:
        if TURN.match(text) is not None:
            roles = ("user" if name == "Human" else "assistant" for name in spoken[::2])
            texts = (turn.strip() for turn in spoken[1::2])
            return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return [{"role": "assistant", "content": text}]


def _conversation(row: dict[str, Any], column: str) -> list[Message]:
    value = _cell(row, column)
    if isinstance(value, str) and value.lstrip()[:1] == "[":  # JSON in a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Wrong("shape", f"{column!r} is no list of messages.") from error
    if value is None:
        return []
    if not isinstance(value, list):
        raise Wrong("shape", f"{column!r} is no list of messages.")
    if len(value) > MANY:
        raise Wrong("shape", f"It has {len(value):,} messages, more than {MANY:,}.")
    return [message(m, column) for m in value]


def _is_message(value: dict[str, Any]) -> bool:
    return ("role" in value and ("content" in value or "tool_calls" in value)) or (
        "from" in value and "value" in value
    )


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and _is_message(m) for m in value)
    )


def message(value: Any, where: str) -> Message:
    """One message of either kind in normal form. Raises Wrong."""
    if not isinstance(value, dict):
        raise Wrong("shape", f"{where!r} holds something that is no message.")
    raw = value.get("role", value.get("from"))
    role = _ALL_SPEAKERS.get(str(raw).strip().lower())
    if role is None:
        raise Wrong("role", f"Somebody named {str(raw)[:40]!r} speaks in it.")
    content = value["content"] if "content" in value else value.get("value")
    if role == CALL:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    made: Message = {"role": role, "content": _text(content, where)}
    if calls := value.get("tool_calls"):
        made["tool_calls"] = _calls(calls)
    for key in ("name", "tool_call_id"):
        if isinstance(value.get(key), str):
            made[key] = value[key]
    if value.get("train", True) is False or value.get("weight", 1) == 0:
        made["train"] = False
    return made


def _calls(value: Any) -> list[Message]:
    """Calls of functions as chat templates take them: arguments as an object."""
    parsed = _parsed(value)
    calls = parsed if isinstance(parsed, list) else [parsed]
    made = []
    for call in calls:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise Wrong("tool_call", "A function call in it names no function.")
        arguments = _parsed(inner.get("arguments", inner.get("parameters")) or {})
        one: Message = {
            "type": "function",
            "function": {"name": inner["name"], "arguments": arguments},
        }
        if isinstance(call.get("id"), str):
            one["id"] = call["id"]
        made.append(one)
    return made


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Wrong("tool_call", "A function call in it is not JSON.") from error


def _tools(value: Any) -> list[Any]:
    """Tools as a list; each as OpenAI writes it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    parsed = _parsed(value)
    listed = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(tool, dict) for tool in listed):
        raise Wrong("tool_call", "Its tools are no list of objects.")
    return [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in listed
    ]


def _pair(row: dict[str, Any], mapping: Mapping, tools: list[Any]) -> Example:
    chosen = _answer(_cell(row, mapping.chosen), mapping.chosen)
    rejected = _answer(_cell(row, mapping.rejected), mapping.rejected)
    prompt = _prompt(row, mapping)
    if mapping.messages:
        prompt = [*_system(row, mapping), *_conversation(row, mapping.messages)]
    both = min(len(chosen), len(rejected)) - 1
    same = 0  # messages that both begin with: a prompt written twice
    while same < both and chosen[same] == rejected[same]:
        same += 1
    if same and chosen[0]["role"] in ("system", "user"):  # both are whole: what else stands there
        prompt = [*_system(row, mapping), *chosen[:same]]  # is their prompt, or a copy of one
        if chosen[0]["role"] == "system":
            prompt = chosen[:same]
    else:
        prompt += chosen[:same]
        if prompt[-1:] == chosen[-1:]:  # the conversation with its better answer
            prompt = prompt[: -len(chosen[same:])]
    return Example("preference", prompt, "", chosen[same:], rejected[same:], tools=tools)


def _labelled(row: dict[str, Any], mapping: Mapping, tools: list[Any]) -> Example:
    if mapping.messages:
        prompt = [*_system(row, mapping), *_conversation(row, mapping.messages)]
        answer = [prompt.pop()] if prompt and prompt[-1]["role"] == "assistant" else []
    else:
        prompt = _prompt(row, mapping)
        answer = _answer(_cell(row, mapping.answer), mapping.answer)
    return Example(
        "label", prompt, "", answer, label=_label(_cell(row, mapping.label)), tools=tools
    )


_LABELS = {
    "true": True, "1": True, "1.0": True, "good": True, "yes": True, "desirable": True,
    "false": False, "0": False, "0.0": False, "-1": False, "bad": False, "no": False,
    "undesirable": False,
}  # fmt: skip


def _label(value: Any) -> bool:
    found = _LABELS.get(str(value).strip().lower())
    if found is None:
        raise Wrong("label", f"Its label is {str(value)[:40]!r}.")
    return found
