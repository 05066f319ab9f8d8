"""A backend without a model: it says back what it hears. For tests, demos, and as an example.

It is a real backend in the real list. The words that make it slow or make it fail are ordinary
parameters, so that a test of crashes, cancels and queues needs no mock.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from backends.base import Backend, Card, ModelRef, Refused
from backends.card.offload import Weights
from backends.chat.params import ChatParams
from backends.events import Done, Event, Progress, Text
from backends.params import Params, setting

Fault = Literal["", "kill", "segfault", "hang", "junk", "huge", "raise", "refuse", "cuda", "oom",
                "tight"]  # fmt: skip


@dataclass(frozen=True)
class EchoOptions(Params):
    """How the make-believe load behaves."""

    load_seconds: float = setting(0.0, "Load time", min=0, max=600, unit="s")
    ballast_mb: int = setting(0, "Memory to hold", min=0, max=8192, unit="MB")
    fault: Fault = setting("", "Fault while loading")
    card_mb: int = setting(
        0, "Memory on the card to pretend", min=0, max=1_000_000, unit="MB",
        help="Only on a card that is pretended too, for tests.",
    )  # fmt: skip
    room: int = setting(0, "Room", min=0, hidden=True, help="0: automatic.")
    move_seconds: float = setting(0.0, "Time to park", min=0, max=600, hidden=True)
    move_fault: Fault = setting("", "Fault while parking", hidden=True)
    return_fault: Fault = setting("", "Fault while coming back", hidden=True)


@dataclass(frozen=True)
class EchoParams(ChatParams):
    """A chat's parameters, and how the answer should misbehave."""

    words_per_second: float = setting(0.0, "Words per second", min=0, max=5000, advanced=True,
                                      help="0: as fast as it goes.")  # fmt: skip
    words: int = setting(0, "Words", min=0, max=100_000, advanced=True,
                         help="0: the message once. Otherwise so many words.")  # fmt: skip
    fault: Fault = setting("", "Fault", hidden=True)
    fault_at: int = setting(3, "Words before the fault", min=0, hidden=True)


class Echo(Backend):
    """Says the last message back, word by word."""

    card = Card(
        name="echo",
        task="chat",
        params=EchoParams,
        load_options=EchoOptions,
        label="Echo (no model)",
        memory_factor=1.0,
        weights=lambda options, size, device: Weights(
            options.card_mb * 2**20, options.ballast_mb * 2**20
        ),
        on_gpu=lambda options: options.card_mb > 0,
        less=lambda options, on_gpu: {} if options.room else {"room": (1, "a room of 1")},
        parkable=True,
    )
    parked = False

    def load(self, model: ModelRef, options: EchoOptions) -> None:
        steps = max(1, int(options.load_seconds * 20))
        for step in range(steps):
            if self.cancelled():
                return
            self.report(Progress(step, steps, "pretending to load"))
            time.sleep(options.load_seconds / steps)
        if options.fault == "tight" and options.room != 1:
            misbehave("oom")
        misbehave(options.fault)
        self.options = options
        self.ballast = bytearray(b"\1" * (options.ballast_mb * 2**20))

    def run(self, params: EchoParams) -> Iterator[Event]:
        if params.tools or params.json_schema is not None or params.top_logprobs >= 0:
            raise Refused(
                "Echo is no model: it has no tools, no JSON and no probabilities.",
                "Ask a model for that.",
            )
        words = (params.prompt or params.messages[-1].content).split(" ")
        if params.count_only:
            yield Done(usage={"prompt_tokens": len(words), "finish_reason": "count"})
            return
        if params.words:
            words = [_paragraphed(i, words[i % len(words)]) for i in range(params.words)]
        started = time.monotonic()
        for i, word in enumerate(words):
            if params.fault and i == min(params.fault_at, len(words) - 1):
                misbehave(params.fault)
            if params.words_per_second:
                time.sleep(max(0.0, started + i / params.words_per_second - time.monotonic()))
            yield Text(word if i == len(words) - 1 else word + " ")
        yield Done(usage={"completion_tokens": len(words), "finish_reason": "stop"})

    def unload(self) -> None:
        self.ballast = bytearray()

    def park(self) -> None:
        time.sleep(self.options.move_seconds)
        misbehave(self.options.move_fault)
        self.parked = True

    def unpark(self) -> None:
        time.sleep(self.options.move_seconds)
        misbehave(self.options.return_fault)
        self.parked = False

    def memory(self) -> dict[str, int]:
        """What it pretends to hold on a card, or in RAM while it is parked."""
        pretended = self.options.card_mb * 2**20
        if not pretended:
            return {}
        return {"cuda_bytes": 0 if self.parked else pretended,
                "parked_bytes": pretended if self.parked else 0}  # fmt: skip


def _paragraphed(i: int, word: str) -> str:
    return "\n\n" + word if i and i % 60 == 0 else word


def misbehave(fault: Fault) -> None:
    """Fail for real, in the way that `fault` names."""
    if fault == "kill":
        os.kill(os.getpid(), 9)
    elif fault == "segfault":
        ctypes.string_at(0)
    elif fault == "hang":
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: nothing in this process moves
    elif fault == "junk":
        print("not a frame", flush=True)
        os.write(int(os.environ["WERKBANK_FRAMES_FD"]), b"\xff\xfe this is not JSON\n")
    elif fault == "huge":
        frame = b'{"id":0,"say":"beat","memory":{},"more":"' + b"x" * 3_000_000 + b'"}\n'
        os.write(int(os.environ["WERKBANK_FRAMES_FD"]), frame)
    elif fault == "raise":
        raise KeyError("echo was asked to fail")
    elif fault == "refuse":
        raise Refused("Echo was asked to refuse.", "Ask it something else.")
    elif fault == "cuda":
        raise RuntimeError("CUDA error: device-side assert triggered")
    elif fault == "oom":
        raise MemoryError("echo was asked to run out of memory")
