"""Tools: what a model is told that it may call, and its calls found in what it writes.

Each family writes calls its own way, and what was written is the only sign of which it is:

    Hermes, Qwen   <tool_call>{"name": "f", "arguments": {…}}</tool_call>, several of them
    Mistral        [TOOL_CALLS][{"name": "f", "arguments": {…}}], or [TOOL_CALLS]f[ARGS]{…}
    Llama 3        {"name": "f", "parameters": {…}}, perhaps after <|python_tag|>

The marks are special tokens in some models, and are dropped from text elsewhere: so calls are
found here, beside the model, and cross as Items.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterator, Sequence
from typing import Any

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.events import Event, Item, Text

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TO_THE_END = ("[TOOL_CALLS]", "<|python_tag|>")  # what follows is calls and nothing else
MARKS = (OPEN, CLOSE, *TO_THE_END, "[ARGS]", "[CALL_ID]")
MISTRAL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][^\[]*)?\[ARGS\]")
PIECE = 16_000  # characters of arguments in one Item


class ToolCalls:
    """Feed it text with `push`; it gives Text, and an Item "tool_call" for each part of a call.

    An Item has the call's `index`, `id` and `name`, and the next piece of `arguments`, a JSON
    text. What only looks like a call is text. `count` is how many calls there were.
    """

    def __init__(self, names: Sequence[str], only_calls: bool = False) -> None:
        """`names` of the tools, empty where there are none; `only_calls`: nothing else may come."""
        self.names = names
        self.held, self.count = "", 0
        # start: nothing but space so far. call: in a Hermes call. rest: all that follows is calls.
        self.state = "text" if not names else "rest" if only_calls else "start"
        self.opened = ""

    def push(self, text: str) -> list[Event]:
        if not self.names:
            return [Text(text)] if text else []
        self.held += text
        found: list[Event] = []
        while (more := self._step()) is not None:
            found += more
        return found

    def end(self) -> list[Event]:
        """What was held back, once no more text comes."""
        text, self.held = self.held, ""
        if self.state in ("call", "rest"):
            return self._calls(text, self.opened)
        return [Text(text)] if text.strip() or (text and not self.count) else []

    def reason(self, reason: str) -> str:
        """Why the answer ended: with calls in it, for their results."""
        return "tool_calls" if self.count and reason == "stop" else reason

    def _step(self) -> list[Event] | None:
        """Events of the part of the text that is certain, None where it has to grow first."""
        if self.state == "start":
            begun = self.held.lstrip()
            self.state = "rest" if begun.startswith("{") else "text" if begun else "start"
            return [] if begun else None
        if self.state == "call":
            body, closed, after = self.held.partition(CLOSE)
            if not closed:
                return None
            self.held, self.state = after.lstrip(), "text"
            return self._calls(body, OPEN, CLOSE)
        return self._text() if self.state == "text" and self.held else None

    def _text(self) -> list[Event] | None:
        places = [(at, m) for m in (OPEN, *TO_THE_END) if (at := self.held.find(m)) >= 0]
        if places:
            at, self.opened = min(places)
            before, self.held = self.held[:at], self.held[at + len(self.opened) :]
            self.state = "call" if self.opened == OPEN else "rest"
            return [Text(before)] if before.strip() else []
        certain = len(self.held) - self._risky()
        if self.count and not self.held[:certain].strip():
            return None  # the space between two calls
        text, self.held = self.held[:certain], self.held[certain:]
        return [Text(text)] if text else None

    def _risky(self) -> int:
        """How many characters at the end could be the beginning of a mark."""
        for length in range(min(len(self.held), max(map(len, MARKS))), 0, -1):
            if any(m.startswith(self.held[-length:]) for m in (OPEN, *TO_THE_END)):
                return length
        return 0

    def _calls(self, body: str, opened: str, closed: str = "") -> list[Event]:
        """The calls in `body`, or all of it as the text that it is then."""
        calls = read_calls(body)
        if not calls or (not opened and any(name not in self.names for name, _ in calls)):
            return [Text(opened + body + closed)] if opened or body else []
        return [item for name, arguments in calls for item in self._items(name, arguments)]

    def _items(self, name: str, arguments: dict[str, Any]) -> Iterator[Item]:
        text = json.dumps(arguments, ensure_ascii=False)
        # Nine letters and digits: what Mistral's templates insist on, and enough for the others.
        number = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        call = {"index": self.count, "id": number, "name": name}
        self.count += 1
        for at in range(0, len(text), PIECE):
            yield Item("tool_call", {**call, "arguments": text[at : at + PIECE]})


def read_calls(body: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the calls in a text that is calls only; empty where it is not."""
    calls: list[tuple[str, dict[str, Any]]] = []
    at, decoder = 0, json.JSONDecoder()
    while at < len(body):
        between = re.compile(r"[\s;,]*(?:\[TOOL_CALLS\])?\s*").match(body, at)
        at = between.end() if between else at
        if at == len(body):
            break
        named = MISTRAL.match(body, at)
        try:
            value, at = decoder.raw_decode(body, named.end() if named else at)
        except (ValueError, RecursionError):
            return []
        values = value if isinstance(value, list) else [value]
        found = [(named[1], _arguments(v)) if named else _call(v) for v in values]
        if any(call is None or call[1] is None for call in found):
            return []
        calls += [(call[0], call[1]) for call in found if call and call[1] is not None]
    return calls


def _call(value: Any) -> tuple[str, dict[str, Any] | None] | None:
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("function"), dict):
        value = inner
    name = value.get("name")
    given = value["arguments"] if "arguments" in value else value.get("parameters", {})
    return (name, _arguments(given)) if isinstance(name, str) and name else None


def _arguments(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def of(params: ChatParams) -> ToolCalls:
    """What finds the calls in the answer to `params`; without tools, text goes through it."""
    names = [str(tool["function"]["name"]) for tool in params.tools]
    return ToolCalls(names, only_calls=params.tool_choice != "auto")


def forced_schema(tools: Sequence[dict[str, Any]], choice: str) -> dict[str, Any] | None:
    """The JSON of a call that must be made; None where the model may choose to make none."""
    if not tools or choice == "auto":
        return None
    shared: dict[str, Any] = {}
    calls = []
    for tool in tools:
        function = tool["function"]
        if choice not in ("required", function["name"]):
            continue
        schema = dict(function.get("parameters") or {"type": "object"})
        for key in ("$defs", "definitions"):  # its references say "#/$defs/…": from the top
            for name, meant in (schema.pop(key, None) or {}).items():
                if shared.setdefault(key, {}).setdefault(name, meant) != meant:
                    raise Refused(
                        f"Two tools mean different things by the definition {name!r}.",
                        "Give one of them another name.",
                    )
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": schema},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {**shared, **(calls[0] if len(calls) == 1 else {"anyOf": calls})}
