"""What about the cards deserves a word: said once, until it went away and came back. Pure.

Each condition has a threshold where it begins and a lower one where it ends, so that a value on
the edge does not flicker. What was dismissed stays away as long as its condition lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from backends.card.nvml import FAULTY, LOST
from backends.card.reading import Gpu, Reading

FULL, FULL_OVER = 0.95, 0.92  # of the memory
HOT, HOT_OVER = 3, 8  # degrees below the one at which the card slows down
HELD, RELEASED = 3.0, 10.0  # seconds of slow-down before it is said, and without before it is over
SILENT = 3.0  # seconds without an answer of one card
SPILLED, SPILLED_OVER = 0.20, 0.30  # of a model's own best speed
SPILL_FULL = 0.97  # of the memory, without which slowness has another cause


@dataclass(frozen=True, slots=True)
class Alert:
    """`key` names card and condition, `text` is what happened and what to do, `since` when."""

    key: str
    text: str
    since: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model runs now: `share` of its own best."""

    label: str
    share: float


@dataclass(slots=True)
class _Condition:
    """`text` is set while it is so. The other times: since when that is seen, or no more."""

    text: str = ""
    since: float = 0.0
    seen: float | None = None
    unseen: float | None = None
    dismissed: bool = False


class Alerts:
    """Looks at one reading after the other. Not for several threads."""

    def __init__(self) -> None:
        self._conditions: dict[str, _Condition] = {}
        self._cards = 0  # as many as were seen at most

    def look(self, reading: Reading, speeds: Mapping[str, Speed] | None = None) -> None:
        """`speeds`: by device ("cuda:0"), of what runs there."""
        now = reading.at
        for gpu in reading.gpus:
            speed = (speeds or {}).get(f"cuda:{gpu.index}")
            self._look_at(gpu, speed, now)
        self._cards = max(self._cards, len(reading.gpus))
        gone = self._cards > 0 and not reading.gpus
        self._set("cards/lost", reading.message if gone else "", not gone, now, after=SILENT)

    def shown(self) -> list[Alert]:
        """Those that hold and were not dismissed, the oldest first."""
        held = [(key, c) for key, c in self._conditions.items() if c.text and not c.dismissed]
        return sorted((Alert(key, c.text, c.since) for key, c in held), key=lambda a: a.since)

    def dismiss(self, key: str) -> None:
        """Not again, until it went away and came back. Unknown keys: no-op."""
        if (condition := self._conditions.get(key)) and condition.text:
            condition.dismissed = True

    def _look_at(self, gpu: Gpu, speed: Speed | None, now: float) -> None:
        name, place = f"GPU {gpu.index}", f"cuda:{gpu.index}"
        lost = f"{name}: {gpu.error}" if gpu.error else ""
        self._set(f"{place}/lost", lost, not lost, now, after=0.0 if gpu.error == LOST else SILENT)
        if gpu.error:  # nothing else of it is known
            self._conditions = {
                key: condition for key, condition in self._conditions.items()
                if key == f"{place}/lost" or not key.startswith(f"{place}/")
            }  # fmt: skip
            return
        for key, text, over in (*_memory(gpu, name), *_heat(gpu, name), *_spill(gpu, speed, name)):
            self._set(f"{place}/{key}", text, over, now)
        if gpu.throttled is not None:
            faulty = [words for words in gpu.throttled if words in FAULTY]
            text = _throttled(name, faulty) if faulty else ""
            self._set(f"{place}/throttled", text, not text, now, after=HELD, until=RELEASED)

    def _set(
        self, key: str, text: str, over: bool, now: float, after: float = 0.0, until: float = 0.0
    ) -> None:
        """`text` where the condition is seen, `over` where it is no more; neither: in between."""
        condition = self._conditions.setdefault(key, _Condition())
        condition.seen = None if not text else now if condition.seen is None else condition.seen
        condition.unseen = (
            None if not over else now if condition.unseen is None else condition.unseen
        )
        if not condition.text and condition.seen is not None and now - condition.seen >= after:
            condition.text, condition.since = text, now
        elif condition.text and condition.unseen is not None and now - condition.unseen >= until:
            self._conditions[key] = _Condition()


def _memory(gpu: Gpu, name: str) -> Iterator[tuple[str, str, bool]]:
    if (share := taken(gpu)) is None:
        return
    text = (
        f"{name}: {100 * share:.0f} % of its memory is taken. Unload a model that is idle or close "
        "other programs before you load more."
    )
    yield "memory", text if share >= FULL else "", share < FULL_OVER


def _heat(gpu: Gpu, name: str) -> Iterator[tuple[str, str, bool]]:
    if gpu.temperature_c is None or gpu.slowdown_c is None:
        return
    below = gpu.slowdown_c - gpu.temperature_c
    text = (
        f"{name} has {gpu.temperature_c} °C and slows itself down at {gpu.slowdown_c} °C. Look at "
        "its fans and the air around it."
    )
    yield "heat", text if below <= HOT else "", below > HOT_OVER


def _spill(gpu: Gpu, speed: Speed | None, name: str) -> Iterator[tuple[str, str, bool]]:
    share = taken(gpu)
    if share is None:
        return
    full = share >= SPILL_FULL
    slow = speed is not None and speed.share < SPILLED
    text = ""
    if speed is not None and slow and full:
        text = (
            f"{speed.label} runs at {100 * speed.share:.0f} % of its own best speed while {name} "
            "is full: a part of it is in system memory. Unload another model, or load it in 4-bit "
            "or with a shorter context."
        )
    yield "spill", text, share < FULL or (speed is not None and speed.share >= SPILLED_OVER)


def _throttled(name: str, reasons: list[str]) -> str:
    what = "its power cables and supply" if reasons == ["power supply"] else "its fans and cooling"
    return f"{name} is slowed down ({', '.join(reasons)}). Look at {what}."


def taken(gpu: Gpu) -> float | None:
    """The share of the memory that cannot be had, with what the driver keeps for itself."""
    if gpu.free_bytes is None or not gpu.total_bytes:
        return None
    return 1 - gpu.free_bytes / gpu.total_bytes
