"""Training a small image model from nothing: words to pictures, DDPM, or DCGAN.

diffusion.py         the backend: load, run, and how a run ends
diffusion_params.py  its settings
pictures/            the dataset
from_nothing/        the models and their training
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.base import Backend, Card, ModelRef, Refused
from backends.events import Artifact, Done, Event, Failed, Notice, Progress
from backends.finetune import sealing
from backends.finetune.diffusion_params import DiffusionOptions, DiffusionParams
from backends.finetune.from_nothing import model_card
from backends.finetune.from_nothing.kinds import KINDS, Kind
from backends.finetune.from_nothing.sizes import SIZES
from backends.finetune.from_nothing.stages import Bench
from backends.finetune.from_nothing.training import Training
from backends.finetune.pictures import files, reading
from backends.finetune.shortage import OutOfMemory
from backends.runtime import checkpoints


class Diffusion(Backend):
    """No base, and a model of its own."""

    card = Card(
        name="diffusion",
        task="finetune",
        params=DiffusionParams,
        load_options=DiffusionOptions,
        label="A small image model from nothing",
        memory_base=785_000_000,
        on_gpu=lambda options: options.device != "cpu",
        pictures=True,
    )

    def load(self, model: ModelRef, options: DiffusionOptions) -> None:
        """Raises Refused without a GPU where one is asked for, and for any base."""
        import torch

        if model.kind != "none":
            raise Refused(
                f"{model} is no base for this: it begins from nothing.",
                "Write none: as the base, or choose a LoRA training.",
            )
        has_gpu = torch.cuda.is_available()
        self.device = options.device if options.device != "auto" else "cuda" if has_gpu else "cpu"
        if self.device == "cuda" and not has_gpu:
            raise Refused(
                "PyTorch finds no NVIDIA GPU on this computer.",
                "Choose the CPU, or run `python launch.py doctor` to see what is missing.",
            )
        if self.device == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        elif "OMP_NUM_THREADS" not in os.environ:
            # One core stays free: threads that wait for a busy one cost ten times the work.
            torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))

    def unload(self) -> None:
        return None

    def run(self, params: DiffusionParams) -> Iterator[Event]:
        """Train, resumed from the newest checkpoint. Raises Refused."""
        from backends.finetune.data.rows import Stopped

        if not params.folder or not params.dataset:
            raise Refused("This training has no folder or no dataset.", "Start it as a job.")
        kind, job = KINDS[params.kind], Path(params.folder)
        again = (job / "checkpoints").is_dir()
        found = checkpoints.newest(job / "checkpoints") if params.resume else None
        if found:
            yield Notice(f"Resumed after step {checkpoints.step_of(found)}.")
        elif again:
            yield Notice("There is no whole snapshot to go on from, so it begins anew.")
        dataset = Path(params.dataset)
        sha256 = files.sha256(dataset)  # now: its file may be gone when the training ends
        try:
            pictures = yield from reading.read(dataset, params.side, kind.captioned, self.cancelled)
        except Stopped:  # nothing was trained yet: there is no checkpoint to write
            yield Done(cancelled=True)
            return
        for note in pictures.notices():
            yield Notice(note)
        bench = Bench(
            params, SIZES[params.size], pictures, self.device, precision(params, self.device)
        )
        training = Training(kind, bench, self.cancelled, self.hurried)
        try:
            yield from training.run(found)
        except sealing.DiskShort as short:
            yield Done(cancelled=True, usage=short.as_usage())
            return
        except OutOfMemory as error:
            yield too_small(error)
            return
        yield from _end(training, kind, bench, sha256)


def precision(params: DiffusionParams, device: str) -> str:
    """bf16 where the card computes in it, else fp32. Raises Refused where bf16 is asked for in
    vain."""
    import torch

    able = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if params.precision == "bf16" and not able:
        raise Refused(
            "There is no GPU here that computes in bf16.", "Choose fp32, or leave it automatic."
        )
    return "bf16" if able and params.precision != "fp32" else "fp32"


def too_small(error: OutOfMemory) -> Failed:
    torn = " It goes back to the last checkpoint: the weights were being changed."
    return Failed(
        "The memory is too small for this training."
        + (torn if error.torn else " Not even one picture at a time fits."),
        "Choose a smaller size, side or batch. Resume goes on from the last checkpoint.",
        str(error), out_of_memory=True,
    )  # fmt: skip


def _end(training: Training, kind: Kind, bench: Bench, sha256: str) -> Iterator[Event]:
    where = training.where
    usage: dict[str, Any] = {"steps": training.step, "loss": where.last_loss}
    if training.ended == "diverged":
        yield Done(usage=usage | sealing.DIVERGED)
    elif training.ended == "limit":
        words = {
            "status": "paused",
            "message": f"The time limit of {bench.params.minutes:g} minutes was reached.",
            "hint": "Resume goes on where it was.",
        }
        yield Done(cancelled=True, usage=usage | words)
    elif training.ended:
        yield Done(cancelled=True, usage=usage)
    else:
        yield Progress(training.step, training.step, "saving")
        yield Artifact(str(_save(kind, bench, sha256, where.last_loss)), "model")
        yield Done(usage=usage)


def _save(kind: Kind, bench: Bench, sha256: str, last_loss: float | None) -> Path:
    """The model with its card, in the job's folder; whole or not at all. Raises OSError."""
    made = Path(bench.params.folder) / "model"
    staged = made.with_name(".model.partial")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)
    kind.keep(bench, staged)
    card = model_card.text(bench, kind, sha256, last_loss)
    (staged / "README.md").write_text(card, "utf-8")
    os.replace(staged, made)
    return made
