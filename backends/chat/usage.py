"""What every chat backend says after an answer, and the limits it checks before one."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from backends.base import Refused
from backends.params import setting

AUTOMATIC_CONTEXT = 8192  # tokens, at most, where the user asks for none: memory grows with it

SMALL_CONTEXT = 2048  # where memory has run out with the automatic one
SMALL_CONTEXT_WORDS = f"a context of {SMALL_CONTEXT:,} tokens"


def threads(asked: int = 0) -> int:
    """How many to compute with. One core stays free for the page: with all of them taken, two
    busy processes on two cores fell from 80 tokens/s to between 3 and 37."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return asked or max(1, (own or 2) - 1)


def context_length_setting() -> Any:
    """The load option that every chat backend has."""
    return setting(
        0, "Context length", min=0, max=1_048_576, step=256, unit="tokens",
        help="How much text the model sees at once; memory grows with it. "
        f"0: automatic, up to {AUTOMATIC_CONTEXT}.",
    )  # fmt: skip


def context_length(asked: int, trained: int) -> int:
    """The context to load with, in tokens. Raises Refused above what the model was trained for."""
    if trained and asked > trained:
        raise Refused(
            f"The model was trained for a context of {trained:,} tokens, not {asked:,}.",
            f"Choose at most {trained:,}, or 0 for automatic.",
        )
    return asked or min(trained or AUTOMATIC_CONTEXT, AUTOMATIC_CONTEXT)


def check_prompt(tokens: int, context: int) -> None:
    """Raises Refused where a prompt leaves no room for an answer."""
    if tokens >= context:
        raise Refused(
            f"The conversation is {tokens:,} tokens long, and the context takes {context:,}.",
            "Start a new conversation, shorten the message, or load the model with a longer "
            "context.",
        )


def draw_seed(seed: int) -> int:
    """`seed`, or a new one where it is -1."""
    return secrets.randbelow(2**31 - 1) if seed < 0 else seed


@dataclass
class Meter:
    """Times one answer, from the call of `run` on."""

    seed: int
    context_length: int
    started: float = field(default_factory=time.monotonic)
    first: float = 0.0

    def token(self) -> None:
        """Call at each token; the first one counts."""
        self.first = self.first or time.monotonic()

    def usage(
        self, prompt_tokens: int, completion_tokens: int, finish_reason: str, dropped: int = 0
    ) -> dict[str, Any]:
        """`tokens_per_second` is the speed of writing: reading the prompt is not in it.

        `dropped_messages`: how many were left out, since the context was full.
        """
        now = time.monotonic()
        first = self.first or now
        writing, written = now - first, completion_tokens - 1
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "finish_reason": finish_reason,
            "first_token_seconds": round(first - self.started, 4),
            "seconds": round(now - self.started, 4),
            "tokens_per_second": round(written / writing, 2) if written > 0 < writing else 0.0,
            "seed": self.seed,
            "context_length": self.context_length,
            **({"dropped_messages": dropped} if dropped else {}),
        }
