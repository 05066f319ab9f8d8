"""Calls as each family of models writes them, in pieces of any size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Refused
from backends.chat.tool_calls import PIECE, ToolCalls, forced_schema
from backends.events import Item, Text

ADD = {"name": "add", "arguments": {"a": 1, "b": "}"}}
HERMES = f"<tool_call>\n{json.dumps(ADD)}\n</tool_call>"


def heard(text: str, size: int, **given: Any) -> tuple[str, list[tuple[str, Any]], ToolCalls]:
    """The text and the calls that come of `text`, fed `size` characters at a time."""
    calls = ToolCalls(["add", "mul"], **given)
    events = [e for at in range(0, len(text), size) for e in calls.push(text[at : at + size])]
    events += calls.end()
    said = "".join(e.delta for e in events if isinstance(e, Text))
    items = [e.data for e in events if isinstance(e, Item)]
    assert [i["index"] for i in items] == list(range(len(items)))
    return said, [(i["name"], json.loads(i["arguments"])) for i in items], calls


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        (HERMES, "", ["add"]),
        (f"Sure!\n{HERMES}\n{HERMES}\n", "Sure!\n", ["add", "add"]),
        (f"[TOOL_CALLS] [{json.dumps(ADD)}, {json.dumps(ADD)}]", "", ["add", "add"]),
        ('[TOOL_CALLS]add[ARGS]{"a": 1, "b": "}"}', "", ["add"]),
        ('[TOOL_CALLS]add[CALL_ID]x1[ARGS]{"a": 1, "b": "}"}[TOOL_CALLS]'
         'add[ARGS]{"a": 1, "b": "}"}', "", ["add", "add"]),
        (' {"name": "add", "parameters": {"a": 1, "b": "}"}}', "", ["add"]),
        ('<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": "}"}}; '
         '{"name": "add", "parameters": {"a": 1, "b": "}"}}', "", ["add", "add"]),
        (f"<tool_call>{json.dumps(ADD)}", "", ["add"]),  # it forgot to close it
    ],
)  # fmt: skip
def test_calls_are_found(text: str, said: str, names: list[str], size: int) -> None:
    text_found, calls, tools = heard(text, size)
    assert text_found == said and [name for name, _ in calls] == names
    assert all(arguments == ADD["arguments"] for _, arguments in calls)
    assert tools.reason("stop") == "tool_calls" and tools.reason("length") == "length"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "Just words, a < b and <tool or [TOOL.",
        '{"answer": 42}',
        '{"name": "unknown", "parameters": {}}',
        '{"name": "add", "parameters": 3}',
        "<tool_call>not JSON</tool_call> and on",
        "<tool_call>",
        "  ",
        '[TOOL_CALLS] [{"name": "add", "argum',
        "{" * 20_000,
    ],
)
def test_what_is_no_call_stays_text(text: str, size: int) -> None:
    said, calls, tools = heard(text, size)
    assert calls == [] and tools.reason("stop") == "stop"
    assert said.replace(" ", "") == text.replace(" ", "")


def test_words_come_at_once_even_with_tools() -> None:
    calls = ToolCalls(["add"])
    assert calls.push("Hello <") == [Text("Hello ")] and calls.push("b") == [Text("<b")]
    free = ToolCalls([])
    assert free.push("<tool_call>") == [Text("<tool_call>")] and free.push("") == []


def test_long_arguments_come_in_pieces() -> None:
    long = {"name": "add", "arguments": {"a": "x" * (2 * PIECE)}}
    events = ToolCalls(["add"]).push(f"<tool_call>{json.dumps(long)}</tool_call>")
    parts = [e.data for e in events if isinstance(e, Item)]
    assert len(parts) == 3 and len({p["id"] for p in parts}) == 1
    assert json.loads("".join(p["arguments"] for p in parts)) == long["arguments"]


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_a_call_that_must_be_made_has_a_schema() -> None:
    tools = [tool("a", type="object", **{"$defs": {"x": {"type": "integer"}}}), tool("b")]
    assert forced_schema(tools, "auto") is None and forced_schema([], "required") is None
    either = forced_schema(tools, "required")
    assert either and len(either["anyOf"]) == 2 and either["$defs"] == {"x": {"type": "integer"}}
    one = forced_schema(tools, "b")
    assert one and one["properties"]["name"] == {"const": "b"}
    tools.append(tool("c", **{"$defs": {"x": {"type": "string"}}}))
    with pytest.raises(Refused, match="different things by the definition 'x'"):
        forced_schema(tools, "required")
