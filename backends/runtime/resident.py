"""One model that the user wants in memory. Its process may come and go."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from backends import BACKENDS
from backends.base import Card
from backends.card.offload import Size
from backends.events import Failed
from backends.params import read
from backends.runtime.child import Child

RESTARTS, RESTART_SPAN = 3, 600.0  # so many restarts in so many seconds
RETURN_BANDWIDTH = 6e9  # bytes/s from RAM to the GPU, until a return was timed


@dataclass
class Resident:
    """One model in memory, or on its way. `state` is what the page and /healthz show: loading,
    ready, busy, stuck, parking, parked, returning, crashed, stopped, failed, unloaded.

    `options` are as they were asked for; `shrunk` has what was made smaller since they did not fit.
    """

    id: str
    backend: str
    model: str
    options: dict[str, Any]
    label: str
    owner: str = ""  # the tab that asked for it
    shrunk: dict[str, Any] = field(default_factory=dict)
    size: Size = field(default_factory=lambda: Size(0))  # of the model on disk
    state: str = "loading"
    seconds: float = 0.0  # what the last load took
    return_seconds: float = 0.0  # what the last return from RAM took
    failed: Failed | None = None
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS + 1))
    child: Child | None = None
    running: int = 0
    adapters: tuple[str, ...] = ()  # references, of the last answer
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def card(self) -> Card:
        return BACKENDS[self.backend].card

    @property
    def usable(self) -> bool:
        """It is there, and can be asked."""
        alive = self.child is not None and self.child.alive
        return alive and self.state in ("ready", "busy")

    @property
    def as_loaded(self) -> dict[str, Any]:
        """The options that hold."""
        return self.options | self.shrunk

    @property
    def parked_bytes(self) -> int:
        """What waits in RAM while it is parked."""
        alive = self.child and self.child.alive
        return self.child.memory.get("parked_bytes", 0) if self.child and alive else 0

    @property
    def back_in_seconds(self) -> float:
        """How long its return from RAM will take, about."""
        return self.return_seconds or self.parked_bytes / RETURN_BANDWIDTH

    @property
    def held_bytes(self) -> int:
        """What it holds on the GPU, or else in RAM: the whole process, which ends with it."""
        child = self.child
        return held_bytes(child.memory) if child and child.alive else 0

    def status(self) -> dict[str, Any]:
        """For /healthz and the panel: plain JSON."""
        return {
            "kind": "model",
            "id": self.id,
            "backend": self.backend,
            "model": self.model,
            "label": self.label,
            "state": self.state,
            **process_status(self.child),
            "load_seconds": round(self.seconds, 2),
            "problem": str(self.failed) if self.failed else None,
        }


def adapters_in(params: dict[str, Any]) -> tuple[str, ...]:
    """The references of the adapters that an answer is asked for with."""
    uses = params.get("adapters")
    uses = uses if isinstance(uses, list | tuple) else ()
    return tuple(str(use["ref"]) for use in uses if isinstance(use, dict) and use.get("ref"))


def process_status(child: Child | None) -> dict[str, Any]:
    """The part of a status that is the process's."""
    alive = child if child and child.alive else None
    return {"pid": alive.pid if alive else None, "memory": dict(alive.memory) if alive else {}}


def held_bytes(memory: dict[str, int]) -> int:
    """Of the numbers that a worker gives, the one for where its model lies."""
    return memory.get("cuda_bytes") or memory.get("rss_bytes", 0)


def shrink(resident: Resident, on_gpu: bool) -> str:
    """Choose less wherever Werkbank has chosen itself. Returns what, in a sentence; "" where the
    user has set everything, or where it was made smaller before."""
    card = resident.card
    less = card.less(read(card.load_options, resident.options), on_gpu)
    if resident.shrunk or not less:
        return ""
    resident.shrunk = {name: value for name, (value, _) in less.items()}
    said = " and ".join(words for _, words in less.values())
    return f"Memory ran out, so {resident.label} is loaded with {said}, which was left to Werkbank."
