"""The lines that cross between the page and a worker: one JSON object each, capped in size.

    page -> worker   {"id": 3, "do": "load" | "run" | "cancel" | "unload" | "park" | "unpark", …}
    worker -> page   {"id": 3, "event": "Text", "delta": "Hel"}     an event of call 3
                     {"id": 0, "say": "hello" | "preloaded" | "beat" | "leaving"}  of itself

How a worker that ends by itself says why is its exit code.

JSON and not pickle, since the worker opens downloaded models and is the less trusted side.
"""

from __future__ import annotations

import json
from typing import Any

TO_PAGE_BYTES = 2_000_000  # a worker that says more on one line is broken
TO_WORKER_BYTES = 16_000_000  # a long prompt, never a file
POISONED = 87  # exit code after a CUDA error that leaves the context unusable
RECYCLED = 88  # exit code after an out-of-memory whose memory did not come back


class BrokenFrame(Exception):
    """The other side sent something that is not a frame."""


def encode(frame: dict[str, Any], limit: int) -> bytes:
    """One line. Raises ValueError, with what to do, where it is over `limit` bytes."""
    line = json.dumps(frame, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    if len(line) > limit:
        raise ValueError(f"A message of {len(line)} bytes is over {limit}. Make the text shorter.")
    return line


def decode(line: bytes) -> dict[str, Any]:
    """The object on the line. Raises BrokenFrame for anything else."""
    try:
        frame = json.loads(line)
    except ValueError as error:
        raise BrokenFrame(f"not JSON: {line[:80]!r}") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("id"), int):
        raise BrokenFrame(f"not a frame: {line[:80]!r}")
    return frame
