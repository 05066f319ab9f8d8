"""Everything a running backend can say. These eight events are the whole vocabulary.

They cross process borders as one JSON object per event, `{"event": "Text", "delta": "Hel"}`. The
page rebuilds them with `from_json` and never unpickles anything. A new kind of event is a design
decision; a new backend never needs one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

ITEM_BYTES = 64_000  # the most JSON that one Item may carry: larger things cross as files


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece of an answer."""

    delta: str


@dataclass(frozen=True, slots=True)
class Item:
    """One small structured result, such as a transcript segment, a label with its score, a box.

    Raises ValueError where `data` is more than `ITEM_BYTES` of JSON.
    """

    kind: str
    data: Any

    def __post_init__(self) -> None:
        size = len(json.dumps(self.data))
        if size > ITEM_BYTES:
            raise ValueError(
                f"An item of {size} bytes is too large for an event ({ITEM_BYTES}). "
                "Write it to a file and send an Artifact."
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is. `total` 0 means: not known."""

    step: float
    total: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number of a training step."""

    step: int
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was made. `kind` says what it is: image, audio, checkpoint, adapter."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know, though the work goes on."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The end, badly. `message` says what happened, `hint` what to do; `detail` is for the log.

    `refused`: nothing broke, what was asked for cannot be done. `out_of_memory`: less would do.
    """

    message: str
    hint: str = ""
    detail: str = ""
    refused: bool = False
    out_of_memory: bool = False

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


@dataclass(frozen=True, slots=True)
class Done:
    """The end, well. `usage` holds what the work took, with units in the names."""

    cancelled: bool = False
    usage: dict[str, Any] = field(default_factory=dict)


Event = Text | Item | Progress | Metric | Artifact | Notice | Failed | Done
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Text, Item, Progress, Metric, Artifact, Notice, Failed, Done)
}


def to_json(event: Event) -> dict[str, Any]:
    """The event as one JSON object, its kind under "event"."""
    return {"event": type(event).__name__, **asdict(event)}


def from_json(data: dict[str, Any]) -> Event:
    """The event that `to_json` wrote. Raises ValueError for anything that is not one."""
    kind = KINDS.get(str(data.get("event")))
    if kind is None:
        raise ValueError(f"{data.get('event')!r} is not an event. Known are: {', '.join(KINDS)}.")
    fields = {k: v for k, v in data.items() if k not in ("event", "id")}
    try:
        event: Event = kind(**fields)
    except TypeError as error:
        raise ValueError(f"A broken {kind.__name__} event: {error}.") from error
    return event
