"""From a request's body to what a backend takes: the fields that both ways of asking have."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from fastapi import Request

from backends import BACKENDS
from backends.base import Refused
from backends.models.library import Listed
from backends.params import read
from webui.api.errors import ApiError
from webui.bench import Bench

BODY_BYTES = 16_000_000
RENAMED = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
# Fields of a backend's params that the API has under other names, or not at all.
NOT_AS_GIVEN = {"messages", "prompt", "tools", "tool_choice", "json_schema", "top_logprobs",
                "count_only"}  # fmt: skip
# Fields that change nothing here, with the values that mean "nothing".
HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "modalities": (None, ["text"]),
    "best_of": (None, 1),
    "suffix": (None, ""),
}
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
READ_HERE = {"model", "stream", "stream_options"}


@dataclass(frozen=True)
class Asked:
    """A request that was understood.

    logprobs: the client wants them
    echo: text that opens the answer
    one_call: only the first call of a tool is wanted
    """

    listed: Listed
    params: dict[str, Any]
    stream: bool
    include_usage: bool
    visitor: str
    logprobs: bool = False
    echo: str = ""
    one_call: bool = False


def find(bench: Bench, name: str) -> Listed:
    try:
        return bench.find(name)
    except Refused as refused:
        raise ApiError(404, str(refused), code="model_not_found") from refused


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


def understand(
    bench: Bench,
    body: dict[str, Any],
    visitor: str,
    own: dict[str, Any],
    own_fields: set[str],
    **more: Any,
) -> Asked:
    """Raises ApiError, in a sentence, for whatever is missing, wrong or not supported.

    own: the params that the caller made of `own_fields`; more: fields of Asked
    """
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "The field 'model' is missing. Name one of /v1/models.")
    listed = find(bench, name)
    if listed.task != "chat":
        raise ApiError(400, f"{name} is not a chat model. Name one of /v1/models.")
    if not listed.backend:  # what nothing here opens
        raise ApiError(400, listed.problem)
    card = BACKENDS[listed.backend].card
    known = {f.name for f in fields(card.params)} - NOT_AS_GIVEN
    params = {"when_full": "refuse", **own}
    for key, value in body.items():
        if key in own_fields or key in READ_HERE or key in IGNORED:
            continue
        if key in HARMLESS:
            if value not in HARMLESS[key]:
                raise ApiError(400, f"The field '{key}' is not supported yet. Leave it out.")
        elif key == "stop" and value is not None:
            params["stop"] = [value] if isinstance(value, str) else value
        elif RENAMED.get(key, key) in known and value is not None:
            params[RENAMED.get(key, key)] = value
        elif value is not None:
            raise ApiError(400, f"The field '{key}' is not known. Leave it out.")
    try:
        read(card.params, params)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    extras = body.get("stream_options") or {}
    if not isinstance(extras, dict):
        raise ApiError(400, "The field 'stream_options' is not an object. Leave it out.")
    usage = bool(extras.get("include_usage"))
    return Asked(listed, params, bool(body.get("stream")), usage, visitor, **more)


def flag(body: dict[str, Any], name: str, default: bool = False) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"The field '{name}' is not true or false. Send one of them.")
    return default if value is None else value


def count(body: dict[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        raise ApiError(400, f"The field '{name}' is no number from 0 to {most}. Send one, or none.")
    return value
