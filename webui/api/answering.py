"""From a backend's events to the pieces of an answer, and to HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from backends.events import Done, Failed, Item, Text
from webui.api.asked import Asked
from webui.api.errors import ApiError
from webui.bench import Bench, Waiting
from webui.gate import Busy

T = TypeVar("T")
GONE_POLL = 0.25  # seconds between two looks whether the client is still there


@dataclass(frozen=True)
class Said:
    """The next text, with the tokens that it came from where the client asked for them.

    Entries of `tokens` are those of `backends.chat.logprobs`.
    """

    text: str
    tokens: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Called:
    """The next piece of a call of a tool; `begins` with its first one."""

    index: int
    id: str
    name: str
    arguments: str
    begins: bool


Piece = Said | Called | Done
Pieces = AsyncGenerator[Piece, None]


async def answer(
    bench: Bench,
    request: Request,
    asked: Asked,
    stream: Callable[[Pieces, Asked], AsyncGenerator[dict[str, Any], None]],
    whole: Callable[[Pieces, Asked], Awaitable[dict[str, Any]]],
) -> Response:
    """`stream` and `whole` put the pieces into the shape of one route."""
    pieces = pieces_of(bench.generate(asked.listed, asked.params, asked.visitor), asked)
    try:
        # An error before the first word is still an HTTP status.
        first = await unless_gone(request, anext(pieces))
        pieces = again(first, pieces)
        if asked.stream:
            return StreamingResponse(
                lines(stream(pieces, asked), pieces), media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        return JSONResponse(await unless_gone(request, whole(pieces, asked)))
    except BaseException as error:
        await pieces.aclose()
        if isinstance(error, Busy):
            raise too_busy(error) from error
        raise


def too_busy(busy: Busy) -> ApiError:
    wait = max(1, round(busy.retry_after))
    return ApiError(429, str(busy), "rate_limit_error", "busy", wait)


async def pieces_of(events: AsyncGenerator[Any, None], asked: Asked) -> Pieces:
    """What of a backend's events belongs into an answer. Raises ApiError where it failed."""
    tokens: list[dict[str, Any]] = []
    begun: set[int] = set()
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Text):
                yield Said(event.delta, tokens)
                tokens = []
            elif isinstance(event, Item) and event.kind == "logprobs":
                tokens = [*tokens, *event.data]
            elif isinstance(event, Item) and event.kind == "tool_call":
                call = Called(**event.data, begins=event.data["index"] not in begun)
                begun.add(call.index)
                if call.index == 0 or not asked.one_call:
                    yield call
            elif isinstance(event, Done):
                if tokens:  # of a call of a tool
                    yield Said("", tokens)
                yield event
                return
            assert not isinstance(event, Waiting) or event.position > 0
    raise ApiError(500, "The answer ended without an end. Send it again.", "server_error")


async def again(first: Piece, rest: Pieces) -> Pieces:
    """All pieces, the first of which was taken out already."""
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


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


async def lines(
    chunks: AsyncGenerator[dict[str, Any], None], pieces: Pieces
) -> AsyncGenerator[str, None]:
    """Chunks as server-sent events; an error in the middle is the last of them."""
    async with contextlib.aclosing(pieces), contextlib.aclosing(chunks):
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(error.body, separators=(',', ':'))}\n\n"
            return
        yield "data: [DONE]\n\n"


def envelope(kind: str, prefix: str, asked: Asked) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex[:24]}",
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
