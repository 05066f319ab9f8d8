"""Answers that are JSON by a schema. llguidance says which tokens may come next.

llama.cpp has the same library built in and takes the schema as it is; but one that it cannot
follow it only logs, and writes what it likes. So both backends check it here first.
"""

from __future__ import annotations

import json
from typing import Any

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.chat.tool_calls import forced_schema

# Without a bound a small model may write spaces until its tokens are used up. "oneOf" as "anyOf":
# what fits exactly one of several cannot be told while it is written.
STYLE = {"whitespace_pattern": "[ \\n\\t]{0,40}", "coerce_one_of": True}
SCHEMA_CHARACTERS = 200_000
# llama.cpp's llguidance takes up to 500 bytes for each element that an array must or may have: a
# "minItems" of a thousand million filled 24 GB and ended with the system killing the worker.
SCHEMA_ITEMS = 100_000


def schema_of(params: ChatParams) -> dict[str, Any] | None:
    """The schema that an answer has to fit, its own or a tool's; None where it is free.

    Raises Refused where it cannot be followed.
    """
    schema = forced_schema(params.tools, params.tool_choice)
    schema = params.json_schema if schema is None else schema
    return None if schema is None else with_style(schema)


def with_style(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with how JSON is to be written. Raises Refused where it cannot be followed."""
    from llguidance import LLMatcher

    styled = {**schema, "x-guidance": STYLE}
    text = json.dumps(styled)
    if len(text) > SCHEMA_CHARACTERS:
        raise Refused(
            f"The JSON schema has {len(text):,} characters, more than {SCHEMA_CHARACTERS:,}.",
            "Send a smaller one.",
        )
    if counted_items(schema) > SCHEMA_ITEMS:
        raise Refused(
            f"The JSON schema counts arrays beyond {SCHEMA_ITEMS:,} elements.",
            "Make its minItems and maxItems smaller, or leave them out.",
        )
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        why = str(messages[0]).strip().partition("\n")[0][:300].rstrip(".")
        raise Refused(
            f"The JSON schema cannot be followed: {why}.", "Leave that out, or write it otherwise."
        )
    return styled


def counted_items(schema: dict[str, Any]) -> float:
    """What all "minItems" and "maxItems" of a schema come to."""
    total, left = 0.0, [schema]
    while left:
        part: Any = left.pop()
        if isinstance(part, dict):
            counts = (part.get("minItems"), part.get("maxItems"))
            total += sum(abs(count) for count in counts if isinstance(count, float | int))
            left += part.values()
        elif isinstance(part, list):
            left += part
    return total


def went_astray(detail: str) -> Refused:
    return Refused(
        "The JSON answer could not be written by its schema.", "Make the schema simpler.", detail
    )


class Bytes:
    """The vocabulary of `Watch`: the 256 bytes and an end, in the form that llguidance asks for."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([i]) for i in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class Watch:
    """Reads along while llama.cpp writes: where it gives a schema up, it says so only in its log.

    Some schemas get too complex only as they are followed (an object of 3,000 properties does).
    """

    def __init__(self, schema: dict[str, Any] | None) -> None:
        """`schema` as `with_style` gave it; without one everything fits."""
        self.matcher: Any = None
        if schema is not None:
            from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
            self.matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Bytes())), grammar, log_level=0)

    def take(self, text: str) -> None:
        """The next piece of the answer. Raises Refused where it fits no longer."""
        data = list(text.encode())
        if self.matcher and self.matcher.try_consume_tokens(data) < len(data):
            raise went_astray(self.matcher.get_error())


class Vocabulary:
    """A transformers tokenizer as llguidance reads it: made once (0.3 s for 50,000 tokens)."""

    def __init__(self, tokenizer: Any, ends: set[int], size: int) -> None:
        """`size`: how many scores the model gives, which may be more than there are tokens."""
        from llguidance.hf import from_tokenizer

        try:
            self.tokens = from_tokenizer(
                tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=sorted(ends)
            )
        except ValueError as error:
            raise Refused(
                "This model's tokenizer cannot be used for JSON answers and log probabilities.",
                "Leave them out, or use another model.",
                str(error),
            ) from error

    def bytes_of(self, token: int) -> bytes:
        """What one token says; part of a character, perhaps."""
        return bytes(self.tokens.decode_bytes([token]))


class JsonAnswer:
    """One answer on its way: which tokens may come next, an end among them when it is whole."""

    def __init__(self, vocabulary: Vocabulary, schema: dict[str, Any]) -> None:
        """`schema` as `with_style` gave it."""
        from llguidance import LLMatcher

        self.matcher = LLMatcher(
            vocabulary.tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema))
        )

    def masked(self, scores: Any) -> Any:
        """`scores` (vocabulary,), those of forbidden tokens at minus infinity."""
        import torch

        bits = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        mask = allowed.flatten()[: len(scores)].bool().to(scores.device)
        return scores.masked_fill(~mask, float("-inf"))

    def take(self, token: int) -> None:
        """The token that was drawn. Raises Refused where the answer can go no further."""
        if not self.matcher.consume_token(token):
            raise went_astray(self.matcher.get_error())
