"""Will it fit: what a load or a training takes, foretold from headers in milliseconds.

No torch and no driver: `read_source` reads config.json, safetensors headers or GGUF metadata, the
rest is arithmetic (`fit_load`, `fit_train`, `fit_media`). What this card really took corrects it
(`learn`), and what does not fit comes with what would (`remedies`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

CONTEXTS = (32_768, 16_384, 8192, 4096, 2048)  # tokens, what people choose from
SMALLEST = 5  # measurements from which an error is told
TRUSTED = (0.5, 2.0)  # a ratio outside of this says that something else was measured
USUAL_ERROR = 0.05  # of a prediction for a known family, before anything was measured


@dataclass(frozen=True, slots=True)
class Prediction:
    """What something takes on its device, in bytes, part by part.

    uncertain  a part of it is a guess; `note` says which, in a sentence
    held       bytes that are taken when the load ends; the rest comes while it works
    ram        bytes in the computer's memory beside it, of layers that wait there
    error      how far off such predictions are on this card, as a share
    """

    parts: tuple[tuple[str, int], ...]
    held: int = 0
    ram: int = 0
    uncertain: bool = False
    note: str = ""
    error: float = USUAL_ERROR

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts)

    def part(self, name: str) -> int:
        return dict(self.parts).get(name, 0)


@dataclass(frozen=True, slots=True)
class Learned:
    """What measurements say of predictions: measured is `ratio` times predicted, in the median,
    and `error` away from that (median too), from `count` loads."""

    ratio: float = 1.0
    error: float = USUAL_ERROR
    count: int = 0

    def correct(self, prediction: Prediction) -> Prediction:
        """The prediction, with a part "learned" that may be negative."""
        if not self.count:
            return prediction
        more = round(prediction.held * (self.ratio - 1))
        parts = (*prediction.parts, ("learned on this card", more)) if more else prediction.parts
        return replace(prediction, parts=parts, held=prediction.held + more, error=self.error)


def learn(records: Iterable[dict[str, Any]], backend: str, device: str) -> Learned:
    """From the records of `measured.py`'s file with `kind` "load" of this backend and device.

    Compared is what fit itself had said (`fit_bytes`), at the end of the load. The median of all
    ratios counts, so that one load beside a busy neighbour spoils nothing; a few move it little.
    """
    ratios = []
    for record in records:
        said, took = record.get("fit_bytes"), record.get("measured_bytes")
        mine = record.get("backend") == backend and record.get("device") == device
        if mine and isinstance(said, int) and isinstance(took, int) and said > 0 < took:
            ratio = took / said
            if TRUSTED[0] <= ratio <= TRUSTED[1]:
                ratios.append(ratio)
    if not ratios:
        return Learned()
    ratios = ratios[-50:]
    trust = len(ratios) / (len(ratios) + 1)
    ratio = 1 + (statistics.median(ratios) - 1) * trust
    spread = statistics.median(abs(r / ratio - 1) for r in ratios)
    known = len(ratios) >= SMALLEST
    return Learned(ratio, max(0.01, spread) if known else USUAL_ERROR, len(ratios))


# What would help


Predict = Callable[[dict[str, Any]], Prediction | None]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Load options that would fit: `text` for people ("4-bit: 5.9 GB"), `options` as changed."""

    text: str
    options: dict[str, Any]
    prediction: Prediction


NAMES = {"nf4": "4-bit", "int8": "8-bit", "bf16": "16-bit"}
MOVED = {"model": "one part at a time", "group": "block by block"}  # of an image model


def remedies(
    predict: Predict, options: dict[str, Any], free: int, context: int, free_ram: int = 0
) -> list[Remedy]:
    """Ways to make it fit into `free` bytes, each predicted again: one change, or two together.

    predict   what a load with these options takes, None where that cannot be told
    options   as they are now; only those that are there are changed
    context   tokens that the load would have now
    free_ram  bytes that layers may take in the computer's memory
    """
    found = [r for r in _single(predict, options, context) if r.prediction.total <= free]
    if not found:
        found = [r for r in _both(predict, options, context) if r.prediction.total <= free][:1]
    if not found and (layers := _layers(predict, options, free, free_ram)):
        found = [layers]
    return found


def best_that_fits(
    predict: Predict, options: dict[str, Any], free: int, context: int, free_ram: int = 0
) -> Remedy | None:
    """The options that lose least and fit: 16, 8, 4 bits in this order, at the longest context
    that each allows down to 4,096 tokens, at last with layers in RAM. None where nothing fits."""
    room = [c for c in (context, *CONTEXTS) if c <= context]
    steps = ("bf16", "int8", "nf4") if "quantisation" in options else (None,)
    for least in (4096, 0):
        for step in steps:
            for length in sorted(set(room), reverse=True):
                if length < min(least, context):
                    continue
                changed = dict(options)
                changed |= {"quantisation": step} if step else {}
                changed |= {"context_length": length} if "context_length" in options else {}
                prediction = predict(changed)
                if prediction and prediction.total <= free:
                    name = f"{NAMES[step]}, " if step else ""
                    text = f"{name}context {length:,}: {gigabytes(prediction.total)}"
                    return Remedy(text, changed, prediction)
    smallest = options | ({"quantisation": "bf16"} if "quantisation" in options else {})
    return _layers(predict, smallest, free, free_ram)


def _single(predict: Predict, options: dict[str, Any], context: int) -> Iterator[Remedy]:
    """One thing changed: the quantisation, or else the context, or what leaves the GPU."""
    now = predict(options)
    most = now.total if now else 0
    if "quantisation" in options:
        for name in ("int8", "nf4"):
            if remedy := _changed(predict, options, NAMES[name], {"quantisation": name}, most):
                yield remedy
    if "context_length" in options:
        for length in CONTEXTS:
            change = {"context_length": length}
            if length < context and (
                remedy := _changed(predict, options, f"context {length:,}", change, most)
            ):
                yield remedy
    if "offload" in options:
        for way, name in MOVED.items():
            if remedy := _changed(predict, options, name, {"offload": way}, most):
                yield remedy


def _both(predict: Predict, options: dict[str, Any], context: int) -> Iterator[Remedy]:
    if "quantisation" not in options or "context_length" not in options:
        return
    for length in CONTEXTS:
        change = {"quantisation": "nf4", "context_length": length}
        if length < context and (
            remedy := _changed(predict, options, f"4-bit, context {length:,}", change, 0)
        ):
            yield remedy


def _changed(
    predict: Predict, options: dict[str, Any], name: str, change: dict[str, Any], most: int
) -> Remedy | None:
    """None where nothing changes, or where it takes no less than `most` (0: no limit)."""
    changed = options | change
    prediction = predict(changed) if changed != options else None
    if prediction is None or (most and prediction.total >= most):
        return None
    return Remedy(f"{name}: {gigabytes(prediction.total)}", changed, prediction)


def _layers(predict: Predict, options: dict[str, Any], free: int, free_ram: int) -> Remedy | None:
    """The most layers on the GPU that fit: halved between none and a thousand."""
    if "gpu_layers" not in options:
        return None
    low, high, best = 0, 1000, None
    while low <= high:
        middle = (low + high) // 2
        prediction = predict(options | {"gpu_layers": middle})
        if prediction is None:
            return None
        if prediction.total <= free:
            if prediction.ram and prediction.ram <= free_ram:
                best = Remedy(
                    f"{middle} layers on the GPU: {gigabytes(prediction.total)}",
                    options | {"gpu_layers": middle}, prediction,
                )  # fmt: skip
            low = middle + 1
        else:
            high = middle - 1
    return best


def gigabytes(size: float) -> str:
    """In the ledger's and the strip's unit, of 2^30 bytes."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MB"
