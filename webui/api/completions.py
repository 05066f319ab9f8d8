"""POST /v1/completions: a text is continued as it is, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from backends.events import Done
from webui.api import asked as asking
from webui.api.answering import Pieces, Said, envelope, finish_of, usage_of
from webui.api.asked import Asked, count, flag
from webui.api.errors import ApiError
from webui.bench import Bench

FIELDS = {"prompt", "echo", "logprobs"}
MAX_TOKENS = 16  # OpenAI's, where a request does not say
MOST_LOGPROBS = 20


def understand(bench: Bench, body: dict[str, Any], visitor: str) -> Asked:
    """Raises ApiError, in a sentence, for whatever is missing, wrong or not supported."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise ApiError(400, "The field 'prompt' is not one text. Send one that is not empty.")
    top, echo = count(body, "logprobs", MOST_LOGPROBS), flag(body, "echo")
    own: dict[str, Any] = {"prompt": prompt, "max_new_tokens": MAX_TOKENS}
    if top is not None:
        own["top_logprobs"] = top
        if echo:
            raise ApiError(
                400, "The prompt's own log probabilities are not known. Send 'echo' or 'logprobs'."
            )
    return asking.understand(
        bench, body, visitor, own, FIELDS, logprobs=top is not None, echo=prompt if echo else ""
    )


async def whole(pieces: Pieces, asked: Asked) -> dict[str, Any]:
    text, tokens, done = asked.echo, list[dict[str, Any]](), Done()
    async for piece in pieces:
        if isinstance(piece, Said):
            text += piece.text
            tokens += piece.tokens
        elif isinstance(piece, Done):
            done = piece
    choice = {
        "index": 0,
        "text": text,
        "finish_reason": finish_of(done),
        "logprobs": logprobs_of(tokens, 0) if asked.logprobs else None,
    }
    base = envelope("text_completion", "cmpl", asked)
    return {**base, "choices": [choice], "usage": usage_of(done)}


async def stream(pieces: Pieces, asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
    base, at = envelope("text_completion", "cmpl", asked), 0

    def chunk(text: str, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return {**base, "choices": [choice]}

    if asked.echo:
        yield chunk(asked.echo)
    async for piece in pieces:
        if isinstance(piece, Said):
            told = logprobs_of(piece.tokens, at) if asked.logprobs else None
            yield chunk(piece.text, None, told)
            at += len(piece.text)
        elif isinstance(piece, Done):
            yield chunk("", finish_of(piece))
            if asked.include_usage:
                yield {**base, "choices": [], "usage": usage_of(piece)}


def logprobs_of(tokens: list[dict[str, Any]], at: int) -> dict[str, Any]:
    """The older shape; `at` is where the text of the first token begins."""
    offsets = []
    for token in tokens:
        offsets.append(at)
        at += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {t["token"]: t["logprob"] for t in [*token["top"], token]} if token["top"] else None
            for token in tokens
        ],
        "text_offset": offsets,
    }
