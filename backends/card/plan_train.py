"""How to train: what is chosen for one base, one dataset and one device, and why.

Pure arithmetic over headers (`source.py`), lengths of rows and free bytes; no torch, no driver.
What is given stays as it is; the rest is chosen so that it fits. Each choice comes with a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from backends.card import fit_train
from backends.card.fit import Prediction, gigabytes
from backends.card.fit_train import TrainPlan
from backends.card.source import Source

# Lengths that are chosen from, in tokens. Between the powers of two, since a step's time and memory
# go with the length.
LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288,
           16_384, 24_576, 32_768)  # fmt: skip
COVERED = 0.995  # of all tokens, that the chosen length keeps
# Letters are a poor measure: a tokenizer of English takes twice as many tokens for some languages,
# and a template has its own in each row.
LONGER, MORE, TEMPLATE = 2.0, 1.3, 60
PACKED_GPU, PACKED_CPU = 2048, 512  # tokens of a packed sequence, at least
MICRO_BATCHES = (1, 2, 4, 8, 16)
MOST_TOKENS = {"cuda": 16_384, "cpu": 2048}  # in one pass: more makes nothing quicker
NEARLY = 0.95  # of the best speed: with less memory that is as good
HALF_SPEED = {"cuda": 400, "cpu": 25}  # tokens in a pass at which a device does half of what it can
UNPACKING = 0.25  # how much of a pass a 4-bit base costs more, at many tokens
STEPS, CAPPED = 30, 60  # fewer teach nothing that lasts; what a run that is cut short has at least
SNAPSHOTS = 6  # in a run
LONGEST = {"cuda": 2 * 3600, "cpu": 1800}  # seconds that a run takes where nobody asked for more
LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}
SMALL, SMALL_RATE = 500_000_000, 1e-3  # weights of a base that needs larger steps, and how large


@dataclass(frozen=True)
class Lengths:
    """Of the rows that are trained on, in tokens. `bars`: (from, below, rows).

    exact: counted with the base's tokenizer and template; else what the file's letters say.
    """

    rows: int
    total: int
    longest: int
    bars: tuple[tuple[int, int, int], ...] = ()
    exact: bool = False

    @classmethod
    def of_item(cls, said: dict[str, Any], kept: int = 0) -> Lengths:
        """From the doctor's item "lengths"; an estimate gets the room that it may need."""
        rows = int(kept or said.get("rows") or 0)
        exact = bool(said.get("exact"))
        added = 0 if exact else TEMPLATE

        def grown(tokens: Any, times: float = LONGER) -> int:
            return int(tokens) if exact else math.ceil(int(tokens) * times)

        bars = tuple(
            (grown(low) + added, grown(high) + added, int(n))
            for low, high, n in said.get("histogram") or ()
        )
        total = grown(said.get("total") or 0, MORE) + added * rows
        return cls(rows, total, grown(said.get("longest") or 0) + added, bars, exact)

    def cut(self, length: int) -> float:
        """The share of all tokens that lies behind `length` in its row."""
        if length >= self.longest or not self.bars:
            return 0.0
        lost = whole = 0.0
        for low, high, rows in self.bars:
            top = min(high - 1, self.longest)
            middle = (low + max(low, top)) / 2
            whole += rows * middle
            if length <= low:
                lost += rows * (middle - length)
            elif length < top:  # evenly spread in their bar
                lost += rows * (top - length) ** 2 / (2 * (top - low))
        return lost / whole if whole else 0.0

    def kept(self, length: int) -> int:
        """Tokens that remain at `length`."""
        return round(self.total * (1 - self.cut(length)))


@dataclass(frozen=True)
class Room:
    """Where it is trained. `bytes`: what can be had there, in RAM on a CPU.

    name     of the card, by which it is known what it can do
    cores    of the processor
    rate     operations/s that trainings reached here; 0: none was measured
    correct  what measurements say of a prediction of memory
    """

    device: str  # "cpu" or "cuda:N"
    bytes: int
    name: str = ""
    cores: int = 1
    rate: float = 0.0
    correct: Callable[[Prediction, TrainPlan], Prediction] = lambda prediction, plan: prediction

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]


@dataclass(frozen=True)
class Wanted:
    """What is settled already; None is to be chosen. By the names of `SftParams`."""

    quantisation: str | None = None
    adapter: str = "lora"
    lora_rank: int = 16
    max_length: int | None = None
    micro_batch: int | None = None
    accumulation: int | None = None
    checkpointing: bool | None = None
    packing: bool | None = None
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    save_steps: int | None = None
    optimizer: str | None = None
    keep: int = 3
    validation: float = 0.0

    @property
    def method(self) -> str:
        return "full" if self.adapter == "full" else "lora"


@dataclass(frozen=True)
class Chosen:
    """A whole training. `reasons`: a sentence for each choice, by the setting's name.

    steps        of the optimizer in all; `sequences` in an epoch, of which `tokens` count
    prediction   the peak of its memory, its libraries included
    """

    plan: TrainPlan
    packing: bool
    accumulation: int
    epochs: float
    max_steps: int
    steps: int
    save_steps: int
    warmup_steps: int
    learning_rate: float
    optimizer: str
    sequences: int
    tokens: int
    seconds: float
    prediction: Prediction
    fits: bool
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.plan.micro_batch * self.accumulation

    @property
    def trained_tokens(self) -> int:
        """That the whole run goes through."""
        share = self.steps * self.batch / max(1, self.sequences)
        return round(self.tokens * share)


def best_plan(source: Source, lengths: Lengths, room: Room, wanted: Wanted) -> Chosen:
    """The training that loses least of the rows, fits, and is quickest among these."""
    reasons: dict[str, str] = {}
    wish, why = _length(source, lengths, wanted)
    plan, prediction, fits = _fitting(source, lengths, room, wanted, wish)
    if plan.length < wish and wanted.max_length is None:
        why = (
            f"Length {plan.length:,}: {wish:,} would not fit here; "
            f"{100 * lengths.cut(plan.length):.1f} % of the tokens are cut."
        )
    reasons["max_length"] = why
    reasons |= _why_loaded(plan, room, wanted, prediction)
    row_length = plan.length
    packing, plan = _packing(source, lengths, room, wanted, plan)
    if packing:
        prediction = room.correct(memory(source, plan, room.kind), plan)
        reasons["packing"] = (
            f"Packing: rows of about {lengths.total // max(1, lengths.rows):,} tokens share "
            f"sequences of {plan.length:,}, so that nothing is computed for padding."
        )
    tokens = lengths.kept(row_length)
    sequences = max(1, math.ceil(tokens / plan.length / 0.97) if packing else lengths.rows)
    learned = max(1, sequences - round(sequences * wanted.validation))
    epochs = wanted.epochs if wanted.epochs is not None else _epochs(lengths.rows)
    chosen = _schedule(source, room, wanted, plan, packing, learned, tokens, epochs, reasons)
    return replace(chosen, prediction=prediction, fits=fits, reasons=reasons)


# Memory


def memory(source: Source, plan: TrainPlan, kind: str) -> Prediction:
    """The peak on the device; on a CPU in RAM, with the libraries."""
    found = (
        fit_train.predict(source, plan) if kind == "cuda" else fit_train.predict_ram(source, plan)
    )
    return replace(found, held=found.total)


def _fitting(
    source: Source, lengths: Lengths, room: Room, wanted: Wanted, wish: int
) -> tuple[TrainPlan, Prediction, bool]:
    """The longest length that fits, with the most exact base that does, the quickest way there."""
    fewest: tuple[TrainPlan, Prediction] | None = None
    shorter = [n for n in reversed(LENGTHS) if n < wish] if wanted.max_length is None else []
    for length in (wish, *shorter):
        for quantisation in _quantisations(room, wanted):
            fitting = []
            for plan in _ways(lengths, room, wanted, quantisation, length):
                prediction = room.correct(memory(source, plan, room.kind), plan)
                if prediction.total * (1 + prediction.error) <= room.bytes:
                    fitting.append((_speed(plan, room), plan, prediction))
                if fewest is None or prediction.total < fewest[1].total:
                    fewest = plan, prediction
            if fitting:
                enough = NEARLY * max(speed for speed, _, _ in fitting)
                quick = [(plan, said) for speed, plan, said in fitting if speed >= enough]
                return (*min(quick, key=lambda found: found[1].total), True)
    assert fewest
    return (*fewest, False)


def _ways(
    lengths: Lengths, room: Room, wanted: Wanted, quantisation: str, length: int
) -> Iterator[TrainPlan]:
    micros = MICRO_BATCHES if wanted.micro_batch is None else (wanted.micro_batch,)
    most = max(1, _batch_limit(lengths, wanted))
    switches = (False, True) if wanted.checkpointing is None else (wanted.checkpointing,)
    if room.kind == "cpu" and wanted.checkpointing is None:
        switches = (False,)
    for micro in micros:
        if (
            wanted.micro_batch is None
            and micro > 1
            and (micro > most or micro * length > MOST_TOKENS[room.kind])
        ):
            break
        for on in switches:
            yield TrainPlan(
                "full" if wanted.method == "full" else "lora", quantisation, wanted.lora_rank, (),
                micro, length, on, "adamw_8bit" if "8bit" in _optimizer(room, wanted) else "adamw",
            )  # fmt: skip


def _batch_limit(lengths: Lengths, wanted: Wanted) -> int:
    """Rows in one pass: no more than a step has."""
    epochs = wanted.epochs or _epochs(lengths.rows)
    return _batch(lengths.rows, epochs)


def _quantisations(room: Room, wanted: Wanted) -> tuple[str, ...]:
    if wanted.quantisation is not None:
        return (wanted.quantisation,)
    if room.kind == "cpu":
        return ("fp32",)
    half = "bf16" if has_bf16(room.name) else "fp16"
    if wanted.method == "full":
        return ("bf16",) if half == "bf16" else ("fp32",)
    return (half, "nf4")


def _optimizer(room: Room, wanted: Wanted) -> str:
    if wanted.optimizer is not None:
        return wanted.optimizer
    return "adamw_8bit" if wanted.method == "full" and room.kind == "cuda" else "adamw"


def has_bf16(card: str) -> bool:
    """Whether a card of this name computes in bf16: those since Ampere do."""
    old = ("GTX", "RTX 20", "TITAN", "Tesla T4", "V100", "P100", "P40", "Quadro RTX", "MX", " T4")
    return not any(mark in card for mark in old)


# Speed


def operations(source: Source, plan: TrainPlan) -> float:
    """Of one token: forward, back to the inputs, to the weights that are trained, and once more
    forward with checkpointing; two for each weight that it meets."""
    meets = sum(t.count for t in source.tensors if t.kind in ("linear", "head"))
    if source.shape and source.shape.tied:
        meets += source.shape.vocab * source.shape.hidden
    passes = 1 + 1 + (plan.method == "full") + plan.checkpointing
    return 2.0 * passes * max(1, meets)


def rate(room: Room) -> float:
    """Operations/s of a training: measured, else by the card's name or the cores. A guess then."""
    if room.rate:
        return room.rate
    if room.kind == "cpu":
        return 33e9 * max(1, room.cores)  # measured with the starter
    for name, tera in CARDS:
        if name in room.name:
            return 0.4 * tera * 1e12
    return 0.4 * 40e12


# Dense 16-bit operations with 32-bit sums, in 10^12/s, from NVIDIA's data sheets.
CARDS = (
    ("5090", 209), ("5080", 113), ("5070 Ti", 88), ("5070", 62), ("5060 Ti", 47), ("5060", 38),
    ("4090", 165), ("4080", 98), ("4070 Ti", 80), ("4070", 58), ("4060 Ti", 44), ("4060", 30),
    ("3090", 71), ("3080", 60), ("3070", 41), ("3060 Ti", 32), ("3060", 25), ("3050", 18),
    ("H200", 990), ("H100", 990), ("A100", 312), ("A6000", 155), ("L40", 181), ("L4", 60),
)  # fmt: skip


def _speed(plan: TrainPlan, room: Room) -> float:
    """To compare ways of one training: more tokens in a pass are quicker, up to a point."""
    half = HALF_SPEED[room.kind]
    cost = (2 + plan.checkpointing) * (1 + (UNPACKING if plan.packed else 0))
    return plan.tokens / (plan.tokens + half) / cost


def tokens_per_second(source: Source, plan: TrainPlan, room: Room) -> float:
    return rate(room) / operations(source, plan)


# Rows, steps, epochs


def _length(source: Source, lengths: Lengths, wanted: Wanted) -> tuple[int, str]:
    context = source.shape.context if source.shape else 0
    if wanted.max_length is not None:
        return wanted.max_length, f"Length {wanted.max_length:,}, as you set it."
    about = "" if lengths.exact else "about "
    limit = context or LENGTHS[-1]
    for length in LENGTHS:
        if length <= limit and lengths.cut(length) <= 1 - COVERED:
            if length >= lengths.longest:
                longest = f"no row is longer than {about}{lengths.longest:,} tokens"
                return length, f"Length {length:,}: {longest}."
            lost = f"{max(0.1, 100 * lengths.cut(length)):.1f} %"
            return length, f"Length {length:,}: at most {lost} of the tokens are behind it."
    length = max((n for n in LENGTHS if n <= limit), default=limit)
    cut = f"{100 * lengths.cut(length):.1f} % of the tokens are cut"
    return length, f"Length {length:,}: the base reads no more at once; {cut}."


def _packing(
    source: Source, lengths: Lengths, room: Room, wanted: Wanted, plan: TrainPlan
) -> tuple[bool, TrainPlan]:
    """Whether rows share sequences, and how long these are. It must fit as what it replaces did:
    one sequence has no more tokens than a pass had, or the memory is asked again."""
    if wanted.packing is False or wanted.max_length is not None or wanted.micro_batch is not None:
        return bool(wanted.packing), plan
    average = lengths.total / max(1, lengths.rows)
    context = (source.shape.context if source.shape else 0) or PACKED_GPU
    least = PACKED_GPU if room.kind == "cuda" else PACKED_CPU
    epochs = wanted.epochs or _epochs(lengths.rows)
    for length in sorted({min(context, max(plan.length, least)), plan.length}, reverse=True):
        enough = lengths.kept(plan.length) / max(1, length) * epochs >= 4 * STEPS
        if wanted.packing is None and not (enough and average <= length / 3):
            continue
        for micro in (4, 2, 1):
            packed = replace(plan, length=length, micro_batch=micro)
            found = room.correct(memory(source, packed, room.kind), packed)
            fits = found.total * (1 + found.error) <= room.bytes
            if packed.tokens <= max(plan.tokens, length) and fits:
                return True, packed
    return bool(wanted.packing), plan


def _epochs(rows: int) -> float:
    """How often each row is seen: the fewer there are, the more often."""
    table = ((40, 5.0), (5000, 3.0), (20_000, 2.0))
    return next((epochs for below, epochs in table if rows < below), 1.0)


def _batch(sequences: int, epochs: float) -> int:
    """Sequences of one step: 16 where there are many, fewer so that there are enough steps."""
    for batch, steps in ((16, 8 * STEPS), (8, STEPS), (4, STEPS), (2, STEPS)):
        if math.ceil(sequences / batch) * epochs >= steps:
            return batch
    return 1


def _schedule(
    source: Source, room: Room, wanted: Wanted, plan: TrainPlan, packing: bool, sequences: int,
    tokens: int, epochs: float, reasons: dict[str, str],
) -> Chosen:  # fmt: skip
    seconds = tokens * epochs / tokens_per_second(source, plan, room)
    free = wanted.max_steps is None and wanted.epochs is None
    share = min(1.0, LONGEST[room.kind] / max(seconds, 1e-9)) if free else 1.0
    batch = _batch(sequences, epochs)
    while share < 1 and batch > 1 and sequences * epochs * share / batch < CAPPED:
        batch //= 2
    micro = plan.micro_batch if wanted.micro_batch is not None else min(plan.micro_batch, batch)
    plan = replace(plan, micro_batch=micro)
    accumulation = wanted.accumulation or max(1, batch // micro)
    batch = micro * accumulation
    every = max(1, math.ceil(math.ceil(sequences / batch) * epochs))
    max_steps = wanted.max_steps or 0
    if share < 1:
        max_steps = max(min(STEPS, every), int(every * share))
    steps = max_steps or every
    learning, why = _learning_rate(source, wanted)
    save = wanted.save_steps or max(1, math.ceil(steps / SNAPSHOTS))
    reasons |= why | _why_so_long(
        sequences, packing, epochs, steps, every, batch, share < 1, wanted
    )
    if wanted.save_steps is None:
        reasons["save_steps"] = f"A snapshot every {save:,} steps, {-(-steps // save)} in all."
    return Chosen(
        plan, packing, accumulation, epochs, max_steps, steps, save, min(10, steps // 10), learning,
        _optimizer(room, wanted), sequences, tokens, seconds * steps / every, Prediction(()), True,
    )  # fmt: skip


def _learning_rate(source: Source, wanted: Wanted) -> tuple[float, dict[str, str]]:
    if wanted.learning_rate is not None:
        return wanted.learning_rate, {}
    small = 0 < sum(t.count for t in source.tensors) < SMALL
    if small and wanted.method == "lora":
        return SMALL_RATE, {
            "learning_rate": f"Learning rate {SMALL_RATE:g}: a small base needs larger steps."
        }
    usual = LEARNING_RATES[wanted.method]
    return usual, {"learning_rate": f"Learning rate {usual:g}: the usual one."}


# Sentences


def _why_loaded(
    plan: TrainPlan, room: Room, wanted: Wanted, prediction: Prediction
) -> dict[str, str]:
    found: dict[str, str] = {}
    had = gigabytes(room.bytes)
    if wanted.quantisation is None:
        names = {"bf16": "16 bits", "fp16": "16 bits", "nf4": "4 bits", "fp32": "32 bits"}
        why = {
            "nf4": f"with 16 it would not fit into {had}",
            "fp32": "what a processor computes with best",
        }.get(plan.quantisation, f"it fits into {had}, and is quicker than 4")
        found["quantisation"] = f"The base in {names[plan.quantisation]}: {why}."
    if wanted.micro_batch is None:
        rows = "1 row" if plan.micro_batch == 1 else f"{plan.micro_batch} rows"
        found["micro_batch"] = f"{rows} at once: about {gigabytes(prediction.total)} of {had}."
    if wanted.checkpointing is None and room.kind == "cuda":
        found["checkpointing"] = (
            "Gradient checkpointing on: without it this would not fit, or more slowly."
            if plan.checkpointing
            else "Gradient checkpointing off: it fits without, and is a third quicker."
        )
    return found


def _why_so_long(
    sequences: int, packing: bool, epochs: float, steps: int, every: int, batch: int, cut: bool,
    wanted: Wanted,
) -> dict[str, str]:  # fmt: skip
    found: dict[str, str] = {}
    things = "sequences" if packing else "rows"
    if cut:
        found["max_steps"] = (
            f"It ends after {steps:,} steps, {100 * steps / every:.0f} % of the rows: all of them "
            "would take very long."
        )
    elif wanted.epochs is None:
        often = "once" if epochs == 1 else f"{epochs:g} times"
        found["epochs"] = f"Each row is seen {often}: {sequences:,} {things} make {steps:,} steps."
    if wanted.accumulation is None:
        found["accumulation"] = f"An effective batch of {batch}, so that there are {steps:,} steps."
    return found
