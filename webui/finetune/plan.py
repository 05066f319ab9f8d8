"""What a training will be: its settings chosen, each with its reason, and what it will take."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backends.base import ModelRef, Refused
from backends.card import fit_train, offload, plan_train, shapes
from backends.card.fit import Prediction, gigabytes
from backends.card.fit_train import TrainPlan
from backends.card.plan_train import Chosen, Lengths, Room, Wanted
from backends.card.source import Source, read_source
from backends.card.trainings import Trainings
from backends.finetune.sft_params import SftOptions, SftParams
from backends.models import library
from backends.models.library import Listed
from backends.params import read, to_dict

if TYPE_CHECKING:
    from webui.bench import Bench

START = {"cpu": 20.0, "cuda": 25.0}  # seconds until the first step
QUESTION = 80  # letters of a pinned question, at most
ANSWER_TOKENS = {"cpu": 48, "cuda": 96}
FIRST = 3  # steps after which what is measured counts for more than what was foretold


@dataclass(frozen=True)
class TrainForecast:
    """What a training takes. `text` is for people; `fits`: its memory and its files do.

    had_bytes        of memory that can be had on its device
    seconds          None where nothing foretells it
    measured         its speed comes from trainings of this base here, and is no guess
    tokens           that the whole run goes through, in `steps`
    """

    memory_bytes: int = 0
    had_bytes: int = 0
    seconds: float | None = None
    disk_bytes: int = 0
    free_disk_bytes: int = 0
    device: str = "cpu"
    measured: bool = False
    fits: bool = True
    text: str = ""
    tokens: int = 0
    steps: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """`options` and `params` go into a job's spec as they are; `reasons`: a sentence each. `cut`:
    the share of the rows' tokens (0 to 1) that lies behind the length."""

    base: Listed
    options: dict[str, Any]
    params: dict[str, Any]
    reasons: tuple[str, ...] = ()
    forecast: TrainForecast = field(default_factory=TrainForecast)
    cut: float = 0.0


def bases(bench: Bench) -> list[Listed]:
    """The models that can be trained: safetensors for chat, not quantised already."""
    found = []
    for model in bench.models("chat"):
        if model.format != "safetensors" or model.problem or model in found:
            continue
        source = source_of(model.ref)
        if source is None or not source.prequantised:
            found.append(model)
    return found


def source_of(ref: ModelRef) -> Source | None:
    """The base's headers; of a starter that is made at its first use, those of what it is made
    from. None where they cannot be read."""
    try:
        return read_source(library.locate(ref))
    except (Refused, OSError, ValueError):
        pass
    try:
        made_from = read_source(library.locate(library.origin(ref)))
    except (Refused, OSError, ValueError):
        return None
    shape = made_from.shape
    if shape is None or not shape.known:
        return None
    tensors = tuple(shapes.tensors(shape))
    return Source("safetensors", 4 * sum(t.count for t in tensors), tensors, shape)


def defaults(
    bench: Bench,
    base: Listed,
    about: dict[str, Any],
    lengths: dict[str, Any],
    report: dict[str, Any],
    given: dict[str, Any] | None = None,
    aside: int = 0,
) -> Plan:
    """All settings of a training of `base` on a dataset of which the doctor said `about`,
    `lengths` and `report`. `given`, of params and options by name, stays as it is. `aside`: tokens
    of the set that it is validated with, where that is one of its own.

    Raises Refused for a setting that is wrong.
    """
    given = dict(given or {})
    names = read_names(SftOptions)
    options = to_dict(checked(SftOptions, {k: v for k, v in given.items() if k in names}))
    params = {k: v for k, v in given.items() if k not in names}
    checked(SftParams, params)
    source, device = source_of(base.ref), device_of(bench, options)
    rows = Lengths.of_item(lengths, int(report.get("kept") or 0))
    params.setdefault("prompts", _questions(about))
    params.setdefault("prompt_tokens", ANSWER_TOKENS[device.partition(":")[0]])
    if source is None or source.shape is None or not rows.rows:
        text = "What this training takes cannot be foretold."
        return Plan(base, options, _whole(params), (), TrainForecast(device=device, text=text))
    wanted = _wanted(options, params)
    room = room_of(bench, str(base.ref), device)
    chosen = plan_train.best_plan(source, rows, room, wanted)
    options = options | {"quantisation": chosen.plan.quantisation}
    answers = len(params["prompts"]) * int(params["prompt_tokens"])
    measured = aside or round(rows.total * wanted.validation)
    forecast = _forecast(bench, str(base.ref), source, room, chosen, wanted.keep, answers, measured)
    cut = rows.cut(chosen.plan.length)
    return Plan(base, options, _whole(_params(chosen) | params), _reasons(chosen), forecast, cut)


def room_of(bench: Bench, model: str, device: str) -> Room:
    """What can be had on the device, and what was measured there."""
    trainings = Trainings(bench.measured)
    try:
        had = max(0, bench.to_be_had(device))
    except Refused:  # the driver does not say
        had = 0
    index = int(device.partition(":")[2] or 0)
    name = next((g.name or "" for g in bench.reading.gpus if g.index == index), "")
    return Room(
        device, had, name if device != "cpu" else "", os.cpu_count() or 1,
        trainings.rate(model, device)[0],
        lambda prediction, plan: trainings.correct(prediction, plan, model, device),
    )  # fmt: skip


def device_of(bench: Bench, options: dict[str, Any]) -> str:
    return bench.device_of("sft", options)


def predicted(
    model: str, options: dict[str, Any], params: SftParams, device: str
) -> tuple[Source, TrainPlan, Prediction] | None:
    """Of a job as its spec says it, from headers alone. None where nothing foretells it."""
    source = source_of(ModelRef.parse(model))
    if source is None:
        return None
    plan = train_plan(params, str(options.get("quantisation", "auto")), device)
    return source, plan, plan_train.memory(source, plan, device.partition(":")[0])


def train_plan(params: SftParams, quantisation: str, device: str) -> TrainPlan:
    """The same training as memory sees it."""
    on_gpu = device != "cpu"
    if quantisation == "auto":
        quantisation = "nf4" if on_gpu else "fp32"
    checkpointing = params.checkpointing == "on" or (params.checkpointing == "auto" and on_gpu)
    return TrainPlan(
        "full" if params.adapter == "full" else "lora", quantisation, params.lora_rank, (),
        params.micro_batch, params.max_length, checkpointing,
        "adamw_8bit" if "8bit" in params.optimizer else "adamw",
    )  # fmt: skip


def smaller(source: Source, chosen: TrainPlan, room: Room) -> list[tuple[str, int]]:
    """Ways to take less, one change each and at last all of them: how to say it, and bytes."""
    ways: list[tuple[str, dict[str, Any]]] = []
    if chosen.micro_batch > 1:
        ways.append(("with a micro-batch of 1", {"micro_batch": 1}))
    if not chosen.checkpointing:
        ways.append(("with gradient checkpointing", {"checkpointing": True}))
    if room.kind == "cuda" and chosen.method == "lora" and not chosen.packed:
        ways.append(("with the base in 4 bits", {"quantisation": "nf4"}))
    if chosen.length > 256:
        half = chosen.length // 2
        ways.append((f"with a length of {half:,}", {"length": half}))
    if len(ways) > 1:
        every = {name: value for _, change in ways for name, value in change.items()}
        ways.append(("with all of these together", every))
    found = []
    for text, change in ways:
        changed = replace(chosen, **change)
        total = room.correct(plan_train.memory(source, changed, room.kind), changed).total
        found.append((f"{text}: {gigabytes(total)}", total))
    return found


def corrected(forecast: dict[str, Any], lines: Sequence[dict[str, Any]], total: float = 0) -> str:
    """What the first steps say of a forecast, in a sentence; "" while they are too few.

    forecast: `TrainForecast.to_json()`; lines: of metrics.jsonl; total: steps of the run.
    """
    if len(lines) < FIRST:
        return ""
    speed = speed_of(lines)
    held = max((float(line.get("memory") or 0) for line in lines), default=0.0)
    tokens, steps = float(forecast.get("tokens") or 0), float(forecast.get("steps") or 0)
    told = [f"{speed:,.0f} tokens/s"] if speed else []
    if speed and tokens and steps:
        seconds = tokens * (total or steps) / steps / speed
        before = forecast.get("seconds")
        was = f" ({in_words(float(before))} foretold)" if before else ""
        told.append(f"{in_words(seconds)} in all{was}")
    if held:
        promised = int(forecast.get("memory_bytes") or 0)
        was = f" ({gigabytes(promised)} foretold)" if promised else ""
        told.append(f"{gigabytes(held)} of memory{was}")
    return f"Measured: {', '.join(told)}." if told else ""


def speed_of(lines: Sequence[dict[str, Any]]) -> float:
    """Tokens/s in the median of the steps, the first left out where there are more."""
    speeds = [
        float(s) for line in lines if isinstance(s := line.get("tokens_per_second"), (int, float))
    ]
    return statistics.median(speeds[1:] or speeds) if speeds else 0.0


# What is chosen, as settings


def _wanted(options: dict[str, Any], params: dict[str, Any]) -> Wanted:
    """What is given already; "auto" is to be chosen."""
    names = ("adapter", "lora_rank", "max_length", "micro_batch", "accumulation", "packing",
             "epochs", "max_steps", "learning_rate", "save_steps", "optimizer", "keep",
             "validation")  # fmt: skip
    values = {name: params[name] for name in names if name in params}
    if not values.get("max_steps"):
        values.pop("max_steps", None)  # 0: as many as the epochs have
    switch = params.get("checkpointing", "auto")
    quantisation = options.get("quantisation", "auto")
    return Wanted(
        quantisation=None if quantisation == "auto" else quantisation,
        checkpointing=None if switch == "auto" else switch == "on", **values,
    )  # fmt: skip


def _params(chosen: Chosen) -> dict[str, Any]:
    plan = chosen.plan
    return {
        "epochs": chosen.epochs, "max_steps": chosen.max_steps,
        "learning_rate": chosen.learning_rate, "warmup_steps": chosen.warmup_steps,
        "lora_rank": plan.rank, "lora_alpha": 2 * plan.rank, "max_length": plan.length,
        "micro_batch": plan.micro_batch, "accumulation": chosen.accumulation,
        "packing": chosen.packing, "checkpointing": "on" if plan.checkpointing else "off",
        "optimizer": chosen.optimizer, "save_steps": chosen.save_steps,
    }  # fmt: skip


def _whole(params: dict[str, Any]) -> dict[str, Any]:
    """All of them as JSON, without what belongs to the job."""
    whole = to_dict(checked(SftParams, params))
    return {k: v for k, v in whole.items() if k not in ("folder", "dataset", "resume", "data")}


def _reasons(chosen: Chosen) -> tuple[str, ...]:
    order = ("max_length", "packing", "quantisation", "micro_batch", "checkpointing", "epochs",
             "max_steps", "accumulation", "learning_rate", "save_steps")  # fmt: skip
    return tuple(chosen.reasons[name] for name in order if name in chosen.reasons)


def _questions(about: dict[str, Any]) -> list[str]:
    """To be watched while it learns: the first short question of the rows that are shown."""
    asked = []
    for row in about.get("rows") or ():
        turns = row.get("turns") or ()
        asked += [str(turn["text"]).strip() for turn in turns[:1] if turn.get("role") == "user"]
    short = [text for text in asked if 0 < len(text) <= QUESTION and "\n" not in text]
    questions = [text for text in short if text.endswith("?")]
    return (questions or short)[:1]


def read_names(kind: type[Any]) -> set[str]:
    return set(kind.__dataclass_fields__)


def checked(kind: type[Any], values: dict[str, Any]) -> Any:
    """Raises Refused for a wrong value."""
    try:
        return read(kind, values)
    except ValueError as error:
        happened, stop, mend = str(error).partition(". ")
        raise Refused(happened + ("." if stop else ""), mend) from error


# What it takes


def _forecast(
    bench: Bench, model: str, source: Source, room: Room, chosen: Chosen, keep: int,
    answers: int, measured: int,
) -> TrainForecast:  # fmt: skip
    """`answers`: tokens that are written at each snapshot, and before the first step; `measured`:
    tokens of the rows that are validated with at each snapshot."""
    kind = room.kind
    known = Trainings(bench.measured).rate(model, room.device)[1]
    looks = 1 + -(-chosen.steps // chosen.save_steps)
    seconds = START[kind] + chosen.seconds + looks * answers * token_seconds(source, room)
    # Forwards only: a third of what is learned takes.
    forward = chosen.seconds / max(1, chosen.trained_tokens) / 3
    seconds += (looks - 1) * measured * forward
    disk = disk_bytes(source, chosen.plan, keep)
    free = shutil.disk_usage(bench.home).free
    memory = chosen.prediction.total
    enough_disk = disk <= free
    where = "of memory" if kind == "cpu" else f"of {room.device}'s memory"
    about = "about " if known else "roughly "
    text = (
        f"Needs about {gigabytes(memory)} of {gigabytes(room.bytes)} {where}, "
        f"{about}{in_words(seconds)}, {gigabytes(disk)} of disk"
    )
    if not chosen.fits:
        text += ": does not fit. Choose a smaller base, or unload what others hold."
    elif not enough_disk:
        text += f": {gigabytes(free)} of disk are free. Free some space first."
    else:
        text += ": fits."
    if chosen.prediction.uncertain:
        text += f" {chosen.prediction.note}"
    return TrainForecast(
        memory, room.bytes, seconds, disk, free, room.device, known, chosen.fits and enough_disk,
        text, chosen.trained_tokens, chosen.steps,
    )  # fmt: skip


def token_seconds(source: Source, room: Room) -> float:
    """Of one token of an answer, roughly: the weights are read once, and little else is quick."""
    bandwidth = offload.RAM_BANDWIDTH if room.kind == "cpu" else offload.GPU_BANDWIDTH
    return max(0.03, 2.5 * source.file_bytes / bandwidth)


def disk_bytes(source: Source, plan: TrainPlan, keep: int) -> int:
    """Snapshots that are kept, one more while it is written, and what is saved at the end."""
    if source.shape is None:
        return 0
    trained = fit_train.trained_count(source, source.shape, plan)
    half = plan.packed or (plan.method == "full" and plan.quantisation != "fp32")
    size = 2 if half else 4  # bytes of a number, as fit_train.predict has it
    snapshot = trained * size + fit_train.optimizer_bytes(trained, size, plan)
    return (keep + 1) * snapshot + trained * size


def in_words(seconds: float) -> str:
    """Such as "4 minutes"."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
