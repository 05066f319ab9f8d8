"""/v1 as OpenAI's clients expect it: models and chat completions, streamed or whole.

Shapes: platform.openai.com/docs/api-reference, "Chat completions" and "Models". What a field asks
for is done or refused with a sentence, never dropped in silence. Naming a model that is on this
machine loads it, if the ledger agrees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from backends import BACKENDS
from backends.base import Refused
from backends.events import Done, Failed, Text
from backends.models.library import Listed
from backends.params import read
from webui.bench import Bench, Waiting
from webui.gate import Busy

T = TypeVar("T")
BODY_BYTES = 16_000_000
GONE_POLL = 0.25  # seconds between two looks whether the client is still there
RENAMED = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
# Fields that change nothing here, with the values that mean "nothing".
HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}
IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier",
           "prompt_cache_key", "stream_options", "stream", "model", "messages"}  # fmt: skip


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error",
        code: str | None = None, retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def response(self) -> Response:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else None
        return JSONResponse(self.body, self.status, headers)


@dataclass(frozen=True)
class Asked:
    """A chat request that was understood."""

    listed: Listed
    params: dict[str, Any]
    stream: bool
    include_usage: bool
    visitor: str


def build_api(bench: Bench) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        usable = [m for m in bench.models("chat") if not m.problem]
        return {"object": "list", "data": [describe(m) for m in usable]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        try:
            return JSONResponse(describe(find(bench, name)))
        except ApiError as error:
            return error.response()

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        try:
            asked = understand(bench, await body_of(request), _visitor(request))
            return await answer(bench, request, asked)
        except ApiError as error:
            return error.response()

    @router.api_route("/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
    async def unknown(request: Request, rest: str) -> Response:
        what = f"There is no {request.method} /v1/{rest[:80]}."
        return ApiError(404, f"{what} See the README for what there is.").response()

    return router


def describe(listed: Listed) -> dict[str, Any]:
    return {"id": listed.id, "object": "model", "created": 0, "owned_by": "werkbank"}


def find(bench: Bench, name: str) -> Listed:
    try:
        return bench.find(name)
    except Refused as refused:
        raise ApiError(404, str(refused), code="model_not_found") from refused


def _visitor(request: Request) -> str:
    return f"api:{request.client.host if request.client else ''}"


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body, which is read only up to `BODY_BYTES`."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > BODY_BYTES:
            raise ApiError(413, f"The request is over {BODY_BYTES} bytes. Send less text.")
    try:
        body = json.loads(data)
        json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate fits into no answer
    except UnicodeEncodeError as error:
        raise ApiError(400, "The request is not valid Unicode. Send whole characters.") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request is not JSON ({error}). Send a JSON object.") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The request is not a JSON object. Send named fields.")
    return body


def understand(bench: Bench, body: dict[str, Any], visitor: str) -> Asked:
    """Raises ApiError, in a sentence, for whatever is missing, wrong or not supported."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "The field 'model' is missing. Name one of /v1/models.")
    listed = find(bench, name)
    card = BACKENDS[listed.backend].card
    if card.task != "chat":
        raise ApiError(400, f"{name} is not a chat model. Name one of /v1/models.")
    known = {f.name for f in fields(card.params)} - {"count_only"}
    params: dict[str, Any] = {"messages": messages_of(body.get("messages")), "when_full": "refuse"}
    for key, value in body.items():
        if key in HARMLESS:
            if value not in HARMLESS[key]:
                raise ApiError(400, f"The field '{key}' is not supported yet. Leave it out.")
        elif key == "stop" and value is not None:
            params["stop"] = [value] if isinstance(value, str) else value
        elif RENAMED.get(key, key) in known - {"messages"} and value is not None:
            params[RENAMED.get(key, key)] = value
        elif key not in IGNORED and value is not None:
            raise ApiError(400, f"The field '{key}' is not known. Leave it out.")
    try:
        read(card.params, params)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    extras = body.get("stream_options") or {}
    if not isinstance(extras, dict):
        raise ApiError(400, "The field 'stream_options' is not an object. Leave it out.")
    usage = bool(extras.get("include_usage"))
    return Asked(listed, params, bool(body.get("stream")), usage, visitor)


def messages_of(messages: Any) -> list[dict[str, str]]:
    """OpenAI's messages as role and plain text."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "The field 'messages' is missing or empty. Send at least one message.")
    turns = []
    for i, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise ApiError(400, f"Message {i} is not an object. Send role and content.")
        role = message.get("role")
        role = "system" if role == "developer" else role
        if not isinstance(role, str) or role not in ("system", "user", "assistant"):
            raise ApiError(
                400, f"Message {i} has the role {role!r}. Use system, user or assistant."
            )
        turns.append({"role": role, "content": _text_of(message.get("content"), i)})
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


# Answering


async def answer(bench: Bench, request: Request, asked: Asked) -> Response:
    events = bench.generate(asked.listed, asked.params, asked.visitor)
    try:
        # An error before the first word is still an HTTP status.
        first = await unless_gone(request, next_of_weight(events))
        if asked.stream:
            return StreamingResponse(
                stream(events, first, asked), media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        return JSONResponse(await unless_gone(request, whole(events, first, asked)))
    except BaseException as error:
        await events.aclose()
        if isinstance(error, Busy):
            raise ApiError(
                429, str(error), "rate_limit_error", "busy", max(1, round(error.retry_after))
            ) from error
        raise


async def next_of_weight(events: AsyncGenerator[Any, None]) -> Text | Done:
    """The next piece of text or the end. Raises ApiError where the answer failed."""
    async for event in events:
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Text | Done):
            return event
        assert not isinstance(event, Waiting) or event.position > 0
    raise ApiError(500, "The answer ended without an end. Send it again.", "server_error")


def failure(failed: Failed) -> ApiError:
    if failed.refused:
        long = "context" in failed.message
        return ApiError(400, str(failed), code="context_length_exceeded" if long else None)
    return ApiError(500, str(failed), "server_error")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but give it up when the client hangs up."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=GONE_POLL)
            if not task.done() and await request.is_disconnected():
                raise ApiError(499, "The client closed the connection.")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def whole(
    events: AsyncGenerator[Any, None], first: Text | Done, asked: Asked
) -> dict[str, Any]:
    text, event = "", first
    while isinstance(event, Text):
        text += event.delta
        event = await next_of_weight(events)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "finish_reason": finish_of(event),
        "logprobs": None,
    }
    return {**envelope("chat.completion", asked), "choices": [choice], "usage": usage_of(event)}


async def stream(
    events: AsyncGenerator[Any, None], first: Text | Done, asked: Asked
) -> AsyncGenerator[str, None]:
    base = envelope("chat.completion.chunk", asked)

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _line({**base, "choices": [choice], **more})

    async with contextlib.aclosing(events):
        yield chunk({"role": "assistant", "content": ""})
        event = first
        try:
            while isinstance(event, Text):
                yield chunk({"content": event.delta})
                event = await next_of_weight(events)
        except ApiError as error:
            yield _line(error.body)
            return
        yield chunk({}, finish_of(event))
        if asked.include_usage:
            yield _line({**base, "choices": [], "usage": usage_of(event)})
        yield "data: [DONE]\n\n"


def envelope(kind: str, asked: Asked) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.listed.id,
    }


def finish_of(done: Done) -> str:
    return str(done.usage.get("finish_reason") or "stop")


def usage_of(done: Done) -> dict[str, int]:
    prompt = int(done.usage.get("prompt_tokens") or 0)
    completion = int(done.usage.get("completion_tokens") or 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
