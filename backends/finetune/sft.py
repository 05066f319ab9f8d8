"""Supervised fine-tuning through TRL's SFTTrainer and PEFT: LoRA, rsLoRA, DoRA, or all weights.

    sft.py          the backend: load, run, and how a run ends
    sft_params.py   its settings
    sft_rows.py     the dataset as token rows, answers marked
    sft_setup.py    SFTConfig, LoRA, the adapter's folder (heavy inside its functions)
    sft_trainer.py  SFTTrainer with sealed checkpoints, as a source of events (heavy)
    sft_memory.py   what it does where memory runs out

The trainer runs in a thread of its own and waits until each event has been taken: what a step said
is on the disk before the next step begins.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Backend, Card, ModelRef, Refused
from backends.events import Artifact, Done, Event, Failed, Notice, Progress
from backends.finetune import sealing, sft_setup
from backends.finetune.sft_params import SftOptions, SftParams
from backends.models import catalogue, library
from backends.models.opening import open_model
from backends.runtime import checkpoints

if TYPE_CHECKING:
    from backends.finetune import sft_rows
    from backends.finetune.sft_trainer import Watch
    from backends.finetune.shortage import OutOfMemory


class Sft(Backend):
    """One base, and what it learns."""

    card = Card(
        name="sft",
        task="finetune",
        params=SftParams,
        load_options=SftOptions,
        formats=("safetensors",),
        label="Fine-tune (SFT)",
        memory_base=785_000_000,
        on_gpu=lambda options: options.device != "cpu",
    )

    def load(self, model: ModelRef, options: SftOptions) -> None:
        self.ref = catalogue.training_base(model)
        self.path = library.prepare(self.ref, self.report, self.cancelled)
        self.device, self.quantisation = sft_setup.choose(options)
        if self.device == "cuda":
            import torch

            torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for each unseen length
        self.report(Progress(0, 0, f"opening {self.ref.name} as {self.quantisation}"))
        self._open()
        row = library.row_of(self.ref)
        self.template = catalogue.training_template(row) if row else ""
        self.system = row.system if row else ""

    def _open(self) -> None:
        opened = open_model(self.path, {"": self.device}, self.quantisation)
        self.tokenizer, self.model = opened

    def unload(self) -> None:
        for name in ("model", "tokenizer"):
            vars(self).pop(name, None)

    def run(self, params: SftParams) -> Iterator[Event]:
        """Train, resumed from the newest checkpoint. Raises Refused."""
        from backends.finetune import sft_rows
        from backends.finetune.data.rows import Stopped

        sft_setup.check(params, self.quantisation)
        folder = Path(params.folder)
        again = (folder / "checkpoints").is_dir()
        found = checkpoints.newest(folder / "checkpoints") if params.resume else None
        if found:
            yield Notice(f"Resumed after step {checkpoints.step_of(found)}.")
        elif again:
            yield Notice("There is no whole snapshot to go on from, so it begins anew.")
        encoder = sft_rows.Encoder(self.tokenizer, self.template, self.system, params.answers_only)
        yield Progress(0, 0, "reading the dataset")
        dataset = sft_rows.opened(params.dataset, params.data)
        sha256 = dataset.sha256()  # now: its file may be gone when the training ends
        try:
            rows = yield from sft_rows.collect(
                dataset, encoder, params.max_length, self.cancelled, params.validates
            )
            rows.aside = yield from self._aside(params, encoder)
        except Stopped:  # nothing was trained yet: there is no checkpoint to write
            yield Done(cancelled=True)
            return
        for note in rows.notices(params.max_length):
            yield Notice(note)
        events: queue.Queue[Any] = queue.Queue()
        teller = _Teller(events)
        watch = sft_setup.watch(self, params, teller.say, encoder)
        if found:
            _remember(watch, found)
        thread = threading.Thread(
            target=teller.work, args=(lambda: self._train(params, rows, watch, found),), daemon=True
        )
        thread.start()
        try:
            yield from teller.events()
        finally:
            teller.closed.set()
            thread.join()
        yield from self._end(params, watch, teller, sha256)

    def _aside(
        self, params: SftParams, encoder: sft_rows.Encoder
    ) -> Generator[Event, None, sft_rows.Rows | None]:
        """The rows to validate with, where they are a set of their own. Raises Refused, Stopped."""
        from backends.finetune import sft_rows

        found = sft_rows.validation_set(params.validation_set)
        if found is None:
            return None
        length, stopped = params.max_length, self.cancelled
        try:
            return (yield from sft_rows.collect(found, encoder, length, stopped, True))
        except Refused as error:
            raise sft_rows.of_the_other(error, params.validation_set["path"]) from error

    def _train(
        self, params: SftParams, rows: sft_rows.Rows, watch: Watch, found: Path | None
    ) -> Any:
        """In the thread. Halves the micro-batch as often as memory runs out."""
        from backends.finetune.shortage import free_memory

        self.model = sft_setup.with_adapter(self.model, params, self.ref)
        while True:
            trainer = sft_setup.trainer(self, params, rows, watch)
            if found and trainer.take_done(found):
                return trainer
            short = trainer.learn(str(found) if found else None)
            if short is None:
                return trainer
            found = self._with_less(watch, trainer, short)
            del trainer  # and its optimizer's numbers
            if short.torn and not found:
                self._anew(params)
            free_memory()

    def _with_less(self, watch: Watch, trainer: Any, short: OutOfMemory) -> Path | None:
        """After a step that did not fit: the checkpoint to go on from with a smaller micro-batch,
        None where it begins anew. Raises `short` where there is no smaller one."""
        from backends.finetune.sft_memory import halved
        from backends.finetune.shortage import free_memory

        trainer.model.zero_grad(set_to_none=True)
        free_memory()
        whole = short.step and not short.torn  # then nothing of the step that failed is in it
        if watch.micro_batch == 1:
            if whole:
                trainer.save_sealed(trainer.rng)
            raise short
        less, found = halved(watch), None
        if short.torn:
            found = checkpoints.newest(watch.checkpoints)
            watch.best, watch.waited, watch.bad = None, 0, 0
            if found:
                _remember(watch, found)
        watch.micro_batch, watch.accumulation = less
        if whole:
            found = trainer.save_sealed(trainer.rng)
        step = checkpoints.step_of(found) if found else 0
        back = f" It goes back to {f'step {step}' if step else 'the beginning'}: the weights were "
        watch.say(
            Notice(
                f"Memory ran out at step {short.step + 1}."
                + (f"{back}being changed." if short.torn else "")
                + f" The micro-batch is now {watch.micro_batch}, with accumulation "
                f"{watch.accumulation}: the effective batch and the order of the rows stay."
            )
        )
        return found

    def _anew(self, params: SftParams) -> None:
        """The base as it was, with a fresh adapter."""
        from backends.finetune.shortage import free_memory

        self.unload()
        free_memory()
        self._open()
        self.model = sft_setup.with_adapter(self.model, params, self.ref)

    def _end(
        self, params: SftParams, watch: Watch, teller: _Teller, sha256: str
    ) -> Iterator[Event]:
        from backends.finetune.shortage import OutOfMemory

        error = teller.error
        if isinstance(error, OutOfMemory):
            yield Failed(
                "The memory is too small for this training, even with a micro-batch of 1.",
                "Choose a shorter length, NF4, or gradient checkpointing. Resume goes on from the "
                "last checkpoint.",
                str(error), out_of_memory=True,
            )  # fmt: skip
            return
        if isinstance(error, sealing.DiskShort):
            yield Done(cancelled=True, usage=error.as_usage())
            return
        if error is not None:
            raise error
        trainer = teller.result
        usage = {"steps": int(trainer.state.global_step), "loss": watch.last_loss}
        if watch.ended == "diverged":
            yield Done(usage=usage | sealing.DIVERGED)
        elif watch.ended == "cancelled":
            yield Done(cancelled=True, usage=usage)
        else:
            yield Progress(trainer.state.global_step, trainer.state.max_steps, "saving")
            made = sft_setup.save(self, params, watch, sha256)
            yield Artifact(str(made), "adapter" if params.adapter != "full" else "model")
            yield Done(usage=usage)


class _Teller:
    """Carries events out of the trainer's thread; it goes on when the last one has been taken."""

    def __init__(self, events: queue.Queue[Any]) -> None:
        self.queue, self.closed = events, threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def say(self, event: Event) -> None:
        from backends.finetune.sft_trainer import Closed

        self.queue.put(event)
        while self.queue.unfinished_tasks:
            if self.closed.wait(0.0005):
                raise Closed

    def work(self, train: Any) -> None:
        try:
            self.result = train()
        except BaseException as error:  # told by the listening thread
            self.error = error
        self.queue.put(None)

    def events(self) -> Iterator[Event]:
        while (event := self.queue.get()) is not None:
            yield event
            self.queue.task_done()


def _remember(watch: Watch, found: Path) -> None:
    """What a checkpoint knows beside the trainer's own state."""
    from backends.finetune.sft_trainer import OWN_STATE

    try:
        own = json.loads((found / OWN_STATE).read_text("utf-8"))
        watch.micro_batch, watch.accumulation = int(own["micro_batch"]), int(own["accumulation"])
        watch.best, watch.waited = own["best"], int(own["waited"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"The checkpoint {found.name} is not one of this kind of training.",
            "Delete it, or begin a new job.",
        ) from error
