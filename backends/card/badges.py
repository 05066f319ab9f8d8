"""What of a model fits on a machine, in each way to load it: numbers and a colour.

For a list of models before anything is downloaded: no file is opened where the catalogue has the
figures of a model's config. Budgets are those of the machine when nothing else is loaded, so that a
badge says what the card can do, not what it does now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from backends.card import fit_load, fit_media, shapes
from backends.card.fit import Prediction, gigabytes
from backends.card.offload import PCIE_BANDWIDTH, RAM_BANDWIDTH, Weights, seconds_for_a_token
from backends.card.plan import LoadPlan
from backends.card.shapes import Tensor
from backends.card.source import Source, of_config

Level = Literal["good", "tight", "bad"]
CONTEXT = 4096  # tokens that a language model is reckoned with
TIGHT = 0.92  # of the budget: above that another program can be in the way
SMALL = 10**9  # bytes: nobody quantises a classifier of pictures
UNPACKED = 8  # bytes of a weight that go through memory beside the packed ones
SLOW = 4.0  # tokens/s: about as fast as people read
SLOWLY = "Fits, slowly."
LIBRARIES = 700 * 2**20  # of RAM for a process with PyTorch
BITS = (("bf16", "16-bit"), ("int8", "8-bit"), ("nf4", "4-bit"))


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that a model may take: on its device, and in RAM for what waits there."""

    device: str
    bytes: int
    ram: int = 0


@dataclass(frozen=True, slots=True)
class Badge:
    """`name` is "16-bit", "8-bit", "4-bit", "part in RAM" or "as it is"; `says` a sentence."""

    name: str
    bytes: int
    level: Level
    says: str

    @property
    def size(self) -> str:
        return gigabytes(self.bytes)


def of_figures(
    task: str, config: Mapping[str, Any], parameters: int, parts: Mapping[str, int]
) -> Source | None:
    """A model of which only the catalogue's figures are known. None where they say nothing."""
    if not parameters:
        return None
    if task == "image":
        named = parts or {"model": parameters}
        pieces = tuple((name, (_block(name, count, "other"),)) for name, count in named.items())
        flat = tuple(config.items())
        return Source("pipeline", 2 * parameters, (), None, pieces, flat)
    found = of_config(dict(config)) if config else None
    if task == "speech":
        one = _block("weights", parameters, "linear")
        return Source("speech", 2 * parameters, (one,), config=tuple(config.items()))
    shape = shapes.of_config(dict(config)) if config else None
    if found is None:
        return Source("safetensors", 2 * parameters, (_block("all", parameters, "linear"),), shape)
    beside = tuple(_block(name, count, "linear") for name, count in parts.items())
    tensors = (*found.tensors, *beside)
    return Source("safetensors", 2 * parameters, tensors, found.shape)


def _block(name: str, count: int, kind: shapes.Kind) -> Tensor:
    """Many weights as one, of which only the sum is known."""
    return Tensor(name, (max(1, count // 1024), min(count, 1024)), kind)


@lru_cache(maxsize=1000)
def badges(source: Source, budget: Budget) -> tuple[Badge, ...]:
    """One for each way to load it, the best quality first."""
    if source.kind == "pipeline":
        return _of_pictures(source, budget)
    if source.kind == "speech":
        quantised = (("bf16", "16-bit"), ("int8", "8-bit"))
        return tuple(
            _badge(name, fit_media.predict_speech(source, bits, budget.device, base=_base(budget)),
                   budget) for bits, name in quantised
        )  # fmt: skip
    if source.kind == "gguf" or source.prequantised:
        return (_badge("as it is", _predict(source, "file", budget), budget, source),)
    ways = BITS if source.shape or source.file_bytes > SMALL else BITS[:1]
    made = [_badge(name, _predict(source, bits, budget), budget, source) for bits, name in ways]
    if budget.device == "cpu":  # INT8 is kept beside the file there, and saves nothing
        made = [b for b in made if b is made[0] or b.bytes < made[0].bytes]
    if made[0].level == "bad" and (part := _in_part(source, budget)):
        made.append(part)
    return tuple(made)


def best(found: tuple[Badge, ...]) -> Badge | None:
    """The one to recommend: the best quality that fits well, else the best that fits at all."""
    whole = [b for b in found if b.name != "part in RAM"]
    good = [b for b in whole if b.level == "good"]
    tight = [b for b in whole if b.level == "tight"]
    rest = [b for b in found if b.level != "bad"]
    if tight and not tight[0].says.endswith(SLOWLY):  # the smallest leaves most to others
        tight.reverse()
    return next(iter(good or tight or rest), None)


def _predict(source: Source, bits: str, budget: Budget, layers: int = -1) -> Prediction:
    engine = "llama_cpp" if source.kind == "gguf" else "transformers"
    context = min(CONTEXT, source.shape.context or CONTEXT) if source.shape else CONTEXT
    plan = LoadPlan(engine, bits, budget.device, context, gpu_layers=layers)  # type: ignore[arg-type]
    return fit_load.predict(source, plan, 0 if engine == "llama_cpp" else _base(budget))


def _base(budget: Budget) -> int:
    return LIBRARIES if budget.device == "cpu" else 0


def _badge(
    name: str, prediction: Prediction, budget: Budget, source: Source | None = None
) -> Badge:
    """`source` of a language model: without a card each token means reading all of its weights."""
    needed, there = prediction.total, budget.bytes
    where = "of RAM" if budget.device == "cpu" else "of the graphics card"
    text = f"{name}: needs about {gigabytes(needed)}; {gigabytes(there)} {where} can be had."
    if needed > there:
        return Badge(name, needed, "bad", f"{text} Does not fit.")
    if budget.device == "cpu" and source and source.shape:
        packed = name in ("8-bit", "4-bit")  # and unpacked for every token: written, then read
        unpacked = UNPACKED * sum(t.count for t in source.tensors if t.kind == "linear")
        speed = RAM_BANDWIDTH / (prediction.part("weights") + packed * unpacked + 1)
        text += f" About {speed:.1f} tokens/s without a graphics card."
        if speed < SLOW:
            return Badge(name, needed, "tight", f"{text} {SLOWLY}")
    if needed > TIGHT * there:
        return Badge(name, needed, "tight", f"{text} Just fits, if nothing else is running there.")
    return Badge(name, needed, "good", f"{text} Fits.")


def _in_part(source: Source, budget: Budget) -> Badge | None:
    """The most layers in 16 bits that fit, the others waiting in RAM. What is on the card grows
    evenly with the layers, so that two predictions say it."""
    shape = source.shape
    if budget.device == "cpu" or shape is None or not shape.known or shape.layers < 2:
        return None
    none, one = (_predict(source, "bf16", budget, n) for n in (0, 1))
    each = max(1, one.total - none.total)
    near = min(shape.layers - 1, (budget.bytes - none.total) // each)
    if near < 0:
        return None
    there = _predict(source, "bf16", budget, near)
    if there.ram > budget.ram:
        return None
    share = near / shape.layers
    size = 2 * sum(t.count for t in source.tensors)
    seconds = seconds_for_a_token(Weights(size, size, PCIE_BANDWIDTH), share)
    says = (
        f"All 16 bits, with {near} of {shape.layers} layers on the card ({gigabytes(there.total)}) "
        f"and the others in RAM ({gigabytes(there.ram)}). Works, slowly: about "
        f"{1 / seconds:.1f} tokens/s."
    )
    return Badge("part in RAM", there.total, "tight", says)


def _of_pictures(source: Source, budget: Budget) -> tuple[Badge, ...]:
    """In 16 bits with all parts on the card, and with one part at a time."""
    width = source.number("width", 512)
    bits = "fp32" if budget.device == "cpu" else "fp16"
    plan = fit_media.PicturePlan(width, width, quantisation=bits, device=budget.device)
    whole = fit_media.predict_pictures(source, plan, _base(budget))
    name = "32-bit" if budget.device == "cpu" else "16-bit"
    made = [_badge(name, whole, budget)]
    if made[0].level == "bad" and budget.device != "cpu" and len(source.parts) > 1:
        largest = max(source.parts, key=lambda part: sum(t.count for t in part[1]))[0]
        alone = fit_media.PicturePlan(
            width, width, quantisation=bits, device=budget.device, resident=(largest,)
        )
        moved = fit_media.predict_pictures(source, alone)
        if moved.total <= budget.bytes and moved.ram <= budget.ram:
            says = (
                f"One part at a time on the card ({gigabytes(moved.total)}), the others in RAM "
                f"({gigabytes(moved.ram)}). Works, more slowly."
            )
            made.append(Badge("part in RAM", moved.total, "tight", says))
    return tuple(made)
