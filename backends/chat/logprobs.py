"""Log probabilities of tokens, in one shape for both libraries.

Of the model's own scores, before any setting, bias or grammar changed them. An Item "logprobs" is
a list with an entry for each token of the text that follows it:

    {"token": " Paris", "bytes": [32, 80, …], "logprob": -0.1, "top": [the same without top, …]}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.events import Item

LOWEST = -9999.0  # what OpenAI says for "never"
Entry = dict[str, Any]


def entry(data: bytes, logprob: float) -> Entry:
    """`data` may be part of a character: then `token` shows that, and `bytes` is exact."""
    text = data.decode("utf-8", "replace")
    return {"token": text, "bytes": list(data), "logprob": round(max(logprob, LOWEST), 6)}


def of_scores(scores: Any, token: int, top: int, bytes_of: Callable[[int], bytes]) -> Entry:
    """The entry of `token`, drawn from `scores` (vocabulary,), with the `top` likeliest."""
    shares = scores.float().log_softmax(-1)
    likeliest, ids = shares.topk(top)
    return {
        **entry(bytes_of(token), float(shares[token])),
        "top": [
            entry(bytes_of(i), value)
            for i, value in zip(ids.tolist(), likeliest.tolist(), strict=True)
        ],
    }


def of_chunk(choice: dict[str, Any], top: int) -> list[Entry]:
    """What a chunk of llama.cpp says of its tokens."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [
        {
            **entry(bytes(c["bytes"]), c["logprob"]),
            "top": [entry(bytes(t["bytes"]), t["logprob"]) for t in c["top_logprobs"][:top]],
        }
        for c in content
    ]


def items(told: list[Entry]) -> list[Item]:
    """What was told since the last text, taken out of the list: one Item or none."""
    taken, told[:] = list(told), []
    return [Item("logprobs", taken)] if taken else []
