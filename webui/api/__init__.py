"""/v1 as OpenAI's clients expect it: models, chat completions, completions; streamed or whole.

Shapes: platform.openai.com/docs/api-reference. What a field asks for is done or refused with a
sentence, never dropped in silence. Naming a model that is on this machine loads it, if the ledger
agrees. What there is, for people: docs/api.md.

    errors.py       an answer in OpenAI's error shape
    asked.py        from a body to what a backend takes: the fields that both ways have
    messages.py     roles, texts, calls of tools
    answering.py    from a backend's events to pieces of an answer
    chat.py completions.py    what each of the two has of its own
    images.py       pictures
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from backends.models.library import Listed
from webui.api import chat, completions, images
from webui.api.answering import answer, too_busy, unless_gone
from webui.api.asked import body_of, find
from webui.api.errors import ApiError
from webui.bench import Bench
from webui.gate import Busy

__all__ = ["build_api"]
SERVED = ("chat", "image")  # tasks


def build_api(bench: Bench) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        listed = [m for task in SERVED for m in bench.models(task)]
        usable = [m for m in listed if not m.problem]
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
            asked = chat.understand(bench, await body_of(request), visitor_of(request))
            return await answer(bench, request, asked, chat.stream, chat.whole)
        except ApiError as error:
            return error.response()

    @router.post("/completions")
    async def text_completions(request: Request) -> Response:
        try:
            asked = completions.understand(bench, await body_of(request), visitor_of(request))
            return await answer(bench, request, asked, completions.stream, completions.whole)
        except ApiError as error:
            return error.response()

    @router.post("/images/generations")
    async def generations(request: Request) -> Response:
        try:
            asked = images.understand(bench, await body_of(request), visitor_of(request))
            return JSONResponse(await unless_gone(request, images.drawn(bench, asked)))
        except Busy as busy:
            return too_busy(busy).response()
        except ApiError as error:
            return error.response()

    @router.api_route("/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
    async def unknown(request: Request, rest: str) -> Response:
        what = f"There is no {request.method} /v1/{rest[:80]}."
        return ApiError(404, f"{what} See docs/api.md for what there is.").response()

    return router


def describe(listed: Listed) -> dict[str, Any]:
    return {"id": listed.id, "object": "model", "created": 0, "owned_by": "werkbank"}


def visitor_of(request: Request) -> str:
    return f"api:{request.client.host if request.client else ''}"
