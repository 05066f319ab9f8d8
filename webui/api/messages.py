"""OpenAI's messages and tools, read into the shapes of `backends.chat.params`."""

from __future__ import annotations

import json
import re
from typing import Any

from webui.api.errors import ApiError

ROLES = ("system", "user", "assistant", "tool")
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CHOICES = ("auto", "required", "none")


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """The field `messages`: role and plain text, calls of tools and their results."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "The field 'messages' is missing or empty. Send at least one message.")
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools, by the number of the call
    for i, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise ApiError(400, f"Message {i} is not an object. Send role and content.")
        role = message.get("role")
        role = "system" if role == "developer" else role
        if not isinstance(role, str) or role not in ROLES:
            raise ApiError(
                400, f"Message {i} has the role {role!r}. Use system, user, assistant or tool."
            )
        turn: dict[str, Any] = {"role": role}
        if role == "assistant" and message.get("tool_calls"):
            turn["tool_calls"] = _calls_of(message["tool_calls"], i)
            names |= {call["id"]: call["name"] for call in turn["tool_calls"]}
        if role == "tool":
            number = message.get("tool_call_id")
            if not isinstance(number, str) or number not in names:
                raise ApiError(
                    400,
                    f"Message {i} answers no call of a tool. Give the 'tool_call_id' of a call in "
                    "a message before it.",
                )
            turn |= {"tool_call_id": number, "name": names[number]}
        content = message.get("content")
        empty = content is None and "tool_calls" in turn
        turns.append({**turn, "content": "" if empty else _text_of(content, i)})
    return turns


def _text_of(content: Any, i: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
        for p in content
    ):
        return "".join(p["text"] for p in content)
    raise ApiError(400, f"Message {i} has content that is not text. Send text only.")


def _calls_of(calls: Any, i: int) -> list[dict[str, Any]]:
    found = []
    listed: list[Any] = calls if isinstance(calls, list) else [None]
    for call in listed:
        try:
            function = call["function"]
            name, number, arguments = function["name"], call["id"], function["arguments"]
            if isinstance(arguments, str):
                arguments = json.loads(arguments or "{}")
            if not all(isinstance(text, str) for text in (name, number)):
                raise TypeError
            if not isinstance(arguments, dict):
                raise TypeError
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ApiError(
                400,
                f"Message {i} has a call of a tool that cannot be read. Give it an id, and a "
                "function with its name and its arguments as a JSON object.",
            ) from error
        found.append({"id": number, "name": name, "arguments": arguments})
    return found


def tools_of(body: dict[str, Any]) -> dict[str, Any]:
    """The fields `tools` and `tool_choice`; nothing where the model may not call any."""
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    if not isinstance(tools, list):
        raise ApiError(400, "The field 'tools' is not a list. Send the tools in brackets.")
    names = [_tool_name(tool, i) for i, tool in enumerate(tools, 1)]
    if isinstance(choice, dict):
        function = choice.get("function")
        chosen = function.get("name") if isinstance(function, dict) else None
        if chosen not in names:
            raise ApiError(400, "The field 'tool_choice' names none of the tools. Name one.")
        return {"tools": tools, "tool_choice": chosen}
    choice = choice or "auto"
    if choice not in CHOICES:
        raise ApiError(400, "The field 'tool_choice' is not known. Use auto, none or required.")
    if choice == "required" and not tools:
        raise ApiError(400, "A call of a tool is required, but there are no tools. Send some.")
    return {"tools": tools, "tool_choice": choice} if tools and choice != "none" else {}


def _tool_name(tool: Any, i: int) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        raise ApiError(400, f"Tool {i} is not a function. Send type and function.")
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name) or name in CHOICES:
        raise ApiError(
            400, f"Tool {i} has no usable name. Take up to 64 letters, digits, dots, _ and -."
        )
    if not isinstance(function.get("parameters") or {}, dict):
        raise ApiError(400, f"Tool {i} has parameters that are no JSON schema. Send an object.")
    return name


def format_of(body: dict[str, Any]) -> dict[str, Any]:
    """The field `response_format` as a JSON schema; nothing for text."""
    wanted = body.get("response_format")
    if wanted is None or wanted == {"type": "text"}:
        return {}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    inner = wanted.get("json_schema") if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise ApiError(
            400,
            "The field 'response_format' is not understood. Use the type text, json_object, or "
            "json_schema with a 'json_schema' that has a 'schema'.",
        )
    return {"json_schema": schema}
