"""What a load will take, for the ledger and for people: foretold, measured, and what helps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backends import BACKENDS
from backends.base import ModelRef, Refused
from backends.card import fit, fit_load, fit_media, offload
from backends.card.fit import Prediction
from backends.card.measured import Measured
from backends.card.plan import LoadPlan
from backends.card.source import Source, read_source
from backends.models import library
from backends.models.library import Listed
from backends.params import read
from backends.runtime.resident import Resident

if TYPE_CHECKING:
    from webui.bench import Bench


LONG = 8192  # tokens; more only for whoever asks for it


class Forecast:
    """Predictions of loads, corrected by what the file of measurements says of this card."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured

    def loads(self) -> list[dict[str, Any]]:
        """All loads that were measured, oldest first."""
        return self.measured.of_kind("load")

    def plain(
        self, backend: str, model: str, options: dict[str, Any], device: str
    ) -> Prediction | None:
        """From the model's headers alone. None where nothing foretells this backend, where the
        model is not here or its files cannot be read."""
        found = read_plan(backend, model, options, device)
        if found is None:
            return None
        source, plan = found
        base = BACKENDS[backend].card.memory_base
        if plan is None:
            return None
        pictures = plan.engine == "diffusers"
        return (fit_media.predict_load if pictures else fit_load.predict)(source, plan, base)

    def of(
        self, backend: str, model: str, options: dict[str, Any], device: str
    ) -> Prediction | None:
        """The same, corrected: by all loads of this backend, or by the last one just like it,
        which counts for what it took; what comes after the load is added to that."""
        prediction = self.plain(backend, model, options, device)
        if prediction is None:
            return None
        if took := self.took(backend, model, options, device):
            more = took - prediction.held
            parts = (*prediction.parts, ("measured before", more))
            return replace(prediction, parts=parts, held=took, uncertain=False, error=0.01)
        return fit.learn(self.loads(), backend, device).correct(prediction)

    def took(self, backend: str, model: str, options: dict[str, Any], device: str) -> int:
        """What the last load with the same options held when it was done; 0 where there is none."""
        same = {"backend": backend, "model": model, "options": options, "device": device}
        for record in reversed(self.loads()):
            if all(record.get(key) == value for key, value in same.items()):
                return int(record.get("measured_bytes") or 0)
        return 0

    def bytes(self, resident: Resident, device: str) -> int:
        """What it will hold at most; where nothing foretells that, what it held before, or its
        file times the backend's factor, in RAM with the libraries that each process has."""
        known = self.of(resident.backend, resident.model, resident.options, device)
        if known:
            return known.total
        if took := self.took(resident.backend, resident.model, resident.options, device):
            return took
        card, size = resident.card, resident.size
        weights = card.weights(read(card.load_options, resident.options), size, device)
        if device == "cpu":
            return int(weights.ram_bytes * card.memory_factor + card.memory_base)
        on_gpu = offload.share(weights.gpu_layers, size.layers)
        return int(weights.gpu_bytes * on_gpu * card.memory_factor)

    def remedies(
        self, backend: str, model: str, options: dict[str, Any], device: str, free: int, ram: int
    ) -> list[fit.Remedy]:
        """Load options that fit into `free` bytes of the device; with layers in `ram` at last."""
        found = read_plan(backend, model, options, device)
        if found is None:
            return []

        def told(changed: dict[str, Any]) -> Prediction | None:
            return self.of(backend, model, changed, device)

        plan = found[1]
        ways = fit.remedies(told, options, free, plan.context if plan else 0, ram)
        return [with_speed(way, plan) for way in ways]

    def best(
        self, backend: str, model: str, options: dict[str, Any], device: str, free: int, ram: int
    ) -> fit.Remedy | None:
        """The options that lose least and fit; None where they are as now, or nothing fits."""
        found = read_plan(backend, model, options, device)
        source, plan = found or (None, None)
        if source is None or plan is None or plan.engine == "diffusers":
            return None  # of pictures the load itself chooses what loses least

        def told(changed: dict[str, Any]) -> Prediction | None:
            return self.of(backend, model, changed, device)

        trained = source.shape.context if source.shape else 0
        context = max(plan.context, min(trained, LONG))
        best = fit.best_that_fits(told, options, free, context, ram)
        if best is None or read_plan(backend, model, best.options, device) == found:
            return None
        return with_speed(best, plan)


def with_speed(way: fit.Remedy, plan: LoadPlan | None) -> fit.Remedy:
    """Layers that wait in RAM make it slow: the remedy says how slow."""
    waiting = way.prediction.ram
    if not waiting or plan is None or plan.engine == "diffusers":
        return way
    moved = plan.engine == "transformers"  # llama.cpp computes where they lie
    bandwidth = offload.PCIE_BANDWIDTH if moved else offload.RAM_BANDWIDTH
    whole = waiting + way.prediction.total
    share = way.prediction.total / whole
    seconds = offload.seconds_for_a_token(offload.Weights(whole, whole, bandwidth), share)
    return replace(way, text=f"{way.text} (slow: about {1 / seconds:.1f} tokens/s)")


def read_plan(
    backend: str, model: str, options: dict[str, Any], device: str
) -> tuple[Source, LoadPlan | None] | None:
    """The model's headers, and how such a load keeps it where the backend says; None where the
    model is not here or cannot be read."""
    card = BACKENDS[backend].card
    try:
        source = read_source(library.locate(ModelRef.parse(model)))
        trained = source.shape.context if source.shape else 0
        return source, card.plan(read(card.load_options, options), device, trained)
    except (Refused, OSError, ValueError):
        return None


def sentence(remedies: list[fit.Remedy]) -> str:
    """For a refusal: "It fits as 4-bit: 5.9 GB · context 4,096: 10.8 GB."; "" for none."""
    return f"It fits as {listing(remedies)}." if remedies else ""


def listing(remedies: list[fit.Remedy]) -> str:
    return " · ".join(remedy.text for remedy in remedies)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a load needs and what can be had, in bytes, before the click.

    text  for people: "Needs about 0.4 GB of 20.1 GB free: fits."
    fits  it does, idle models put aside where that is needed
    ways  what would fit where it does not
    best  the options that lose least and fit, where they are others than now
    pause the ids of jobs on the device that make it fit where they are paused (`Jobs.pause`)
    """

    text: str
    fits: bool
    need_bytes: int
    had_bytes: int
    ways: tuple[fit.Remedy, ...] = ()
    best: fit.Remedy | None = None
    pause: tuple[str, ...] = ()


def outlook(bench: Bench, listed: Listed, options: dict[str, Any]) -> Outlook | None:
    """None where nothing can be foretold. Raises Refused for an option that is wrong."""
    device = bench.device_of(listed.backend, options)
    args = (listed.backend, str(listed.ref), options, device)
    prediction = bench.forecast.of(*args)
    if prediction is None:
        return None
    free, had = max(0, bench.ledger.available(device)), bench.to_be_had(device)
    need = prediction.total
    text = f"Needs about {fit.gigabytes(need)} of {fit.gigabytes(free)} free"
    guess = f" {prediction.note}" if prediction.uncertain else ""
    fits = need <= had
    ram = bench.to_be_had("cpu")
    best = None
    if device != "cpu" or not fits:
        best = bench.forecast.best(*args, free=had, ram=ram)
    if need <= free:
        return Outlook(f"{text}: fits.{guess}", True, need, had, best=best)
    if fits:
        how = "fits when idle models make room, which happens by itself"
        return Outlook(f"{text}: {how}.{guess}", True, need, had, best=best)
    ways = tuple(bench.forecast.remedies(*args, free=had, ram=ram))
    if best and best.prediction.total in [way.prediction.total for way in ways]:
        best = None  # it is one of them
    jobs = [entry for entry in bench.ledger.entries(device) if entry.kind == "job"]
    if not jobs or need > had + sum(job.freed_on(device) for job in jobs):
        return Outlook(f"{text}: does not fit.{guess}", False, need, had, ways, best)
    names = " and ".join(job.label for job in jobs)
    how = f"does not fit beside {names}. Wait for it, or pause it on the Fine-tune tab."
    pause = tuple(job.id for job in jobs)
    return Outlook(f"{text}: {how}{guess}", False, need, had, ways, best, pause)
