"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from backends.events import Done
from webui.api import asked as asking
from webui.api.answering import Called, Pieces, Said, envelope, finish_of, usage_of
from webui.api.asked import Asked, count, flag
from webui.api.errors import ApiError
from webui.api.messages import format_of, messages_of, tools_of
from webui.bench import Bench

FIELDS = {"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs",
          "top_logprobs"}  # fmt: skip
MOST_LOGPROBS = 20


def understand(bench: Bench, body: dict[str, Any], visitor: str) -> Asked:
    """Raises ApiError, in a sentence, for whatever is missing, wrong or not supported."""
    logprobs, top = flag(body, "logprobs"), count(body, "top_logprobs", MOST_LOGPROBS)
    if top and not logprobs:
        raise ApiError(400, "The field 'top_logprobs' needs logprobs. Set 'logprobs' to true.")
    tools, form = tools_of(body), format_of(body)
    if tools and form:
        raise ApiError(
            400,
            "JSON answers and tools do not go together here. Send 'response_format' or 'tools'.",
        )
    own = {"messages": messages_of(body.get("messages")), **tools, **form}
    if logprobs:
        own["top_logprobs"] = top or 0
    return asking.understand(
        bench, body, visitor, own, FIELDS,
        logprobs=logprobs, one_call=not flag(body, "parallel_tool_calls", True),
    )  # fmt: skip


async def whole(pieces: Pieces, asked: Asked) -> dict[str, Any]:
    text, tokens, calls = "", list[dict[str, Any]](), list[dict[str, Any]]()
    done = Done()
    async for piece in pieces:
        if isinstance(piece, Said):
            text += piece.text
            tokens += piece.tokens
        elif isinstance(piece, Done):
            done = piece
        elif piece.begins:
            calls.append(call_of(piece))
        else:
            calls[-1]["function"]["arguments"] += piece.arguments
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    choice = {
        "index": 0,
        "message": {**message, "refusal": None, **({"tool_calls": calls} if calls else {})},
        "finish_reason": finish_of(done),
        "logprobs": logprobs_of(tokens) if asked.logprobs else None,
    }
    base = envelope("chat.completion", "chatcmpl", asked)
    return {**base, "choices": [choice], "usage": usage_of(done)}


async def stream(pieces: Pieces, asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
    base = envelope("chat.completion.chunk", "chatcmpl", asked)

    def chunk(delta: dict[str, Any], finish: str | None = None, told: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": told}
        return {**base, "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    async for piece in pieces:
        if isinstance(piece, Said):
            told = logprobs_of(piece.tokens) if asked.logprobs else None
            yield chunk({"content": piece.text}, told=told)
        elif isinstance(piece, Called):
            part = {"function": {"arguments": piece.arguments}}
            delta = call_of(piece) if piece.begins else part
            yield chunk({"tool_calls": [{"index": piece.index, **delta}]})
        else:
            yield chunk({}, finish_of(piece))
            if asked.include_usage:
                yield {**base, "choices": [], "usage": usage_of(piece)}


def call_of(piece: Called) -> dict[str, Any]:
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"id": piece.id, "type": "function", "function": function}


def logprobs_of(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    content = [
        {**{k: v for k, v in token.items() if k != "top"}, "top_logprobs": token["top"]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
