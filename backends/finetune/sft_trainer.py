"""TRL's SFTTrainer as a source of events, with sealed checkpoints.

Its classes are mixins, joined with TRL's by `make`: reading this file imports nothing heavy.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.events import Artifact, Event, Item, Metric, Notice, Progress
from backends.finetune import sealing
from backends.finetune.sft_memory import Sparing
from backends.finetune.shortage import Hurried, free_memory, is_short, memory_bytes
from backends.runtime import checkpoints

OWN_STATE = "werkbank.json"


class Closed(BaseException):
    """Nobody listens any more."""


@dataclass
class Watch:
    """What a training tells and hears, and how it went so far.

    say: takes every event. cancelled: true when it should end. hurried: true when in seconds.
    prompt_ids: of a pinned question.
    best, waited: of the validation loss; they outlive a resume, as the micro-batch does.
    """

    say: Callable[[Event], None]
    cancelled: Callable[[], bool]
    hurried: Callable[[], bool]
    folder: Path
    keep: int
    prompts: tuple[str, ...] = ()
    prompt_ids: Callable[[str], list[int]] = lambda text: []
    prompt_tokens: int = 96
    early_stop: int = 0
    micro_batch: int = 1
    accumulation: int = 1
    best: float | None = None
    waited: int = 0
    bad: int = 0
    ended: str = ""  # "", cancelled, diverged, early
    last_loss: float = math.nan

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def make(watch: Watch, **more: Any) -> Any:
    """An SFTTrainer with sealed checkpoints, whose steps are told. `more`: what it takes."""
    import transformers
    import trl

    trainer_class = type("Trainer", (Sealing, Sparing, trl.SFTTrainer), {})
    listener_class = type("Listener", (Listener, transformers.TrainerCallback), {})
    listener = listener_class(watch)
    trainer = trainer_class(watch=watch, callbacks=[listener], **more)
    listener.trainer = trainer
    if not trainer.args.bf16:
        widen_adapter(trainer.model)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
    return trainer


def widen_adapter(model: Any) -> None:
    """To fp32: TRL keeps an adapter on a packed base in bf16, which not every device can use."""
    import torch

    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()


class Sealing:
    """What is ours in the trainer. Mixed in before `trl.SFTTrainer`."""

    args: Any
    state: Any
    model: Any
    processing_class: Any

    def __init__(self, *args: Any, watch: Watch, **more: Any) -> None:
        self.watch = watch
        self.rng: dict[str, Any] = {}  # at the beginning of this step, as a resume needs it
        super().__init__(*args, **more)

    def take_done(self, found: Path) -> bool:
        """Whether `found` is the checkpoint of the last step: its weights are taken then. `train`
        would go one step further, since it looks at the end only after a step."""
        import transformers

        trainer: Any = self
        state = transformers.TrainerState.load_from_json(str(found / "trainer_state.json"))
        if not 0 < state.max_steps <= state.global_step:
            return False
        trainer._load_from_checkpoint(str(found))
        trainer.state = state
        losses = [line["loss"] for line in state.log_history if "loss" in line]
        self.watch.last_loss = losses[-1] if losses else math.nan
        return True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self.watch.bad:
            self.save_sealed()

    def make_room(self) -> None:
        """Raises DiskShort where the next checkpoint might not fit beside the ones kept."""
        # Before there is one: what is trained, and AdamW's two numbers for each.
        trained = [p for p in self.model.parameters() if p.requires_grad]
        small = "8bit" in str(self.args.optim)
        first = sum(
            p.numel() * (p.element_size() * (1 if small else 3) + 2 * small) for p in trained
        )
        sealing.make_room(self.watch.folder, first)

    def save_sealed(self, rng: dict[str, Any] | None = None) -> Path:
        """Write all that resume needs. Raises DiskShort, and OSError where the disk is full.

        rng: the random numbers' state to keep instead of the present one.
        """
        watch = self.watch
        trainer: Any = self
        folder = watch.checkpoints / checkpoints.name_of(self.state.global_step)
        if (folder / checkpoints.MANIFEST).is_file():
            return folder
        self.make_room()
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.mkdir(parents=True)
        here = random_states()
        if rng:
            set_random_states(rng)
        trainer.store_flos()
        save_weights(self.model, folder)
        if not hasattr(self.model, "peft_config"):  # a whole model answers by itself
            self.processing_class.save_pretrained(folder)
        trainer._save_optimizer_and_scheduler(str(folder))
        trainer._save_scaler(str(folder))
        trainer._save_rng_state(str(folder))
        set_random_states(here)
        self.state.save_to_json(str(folder / "trainer_state.json"))
        own = {"micro_batch": watch.micro_batch, "accumulation": watch.accumulation,
               "best": watch.best, "waited": watch.waited}  # fmt: skip
        (folder / OWN_STATE).write_text(json.dumps(own), "utf-8")
        sealing.seal(watch.folder, folder, watch.keep)
        watch.say(Artifact(str(folder), "checkpoint"))
        self.answer()
        return folder

    def answer(self) -> None:
        """What the pinned questions are answered now, without chance, and none of it used up.
        Left out, and said so, where there is no memory for it."""
        if not self.watch.prompts or self.watch.hurried():
            return
        states = random_states()
        self.model.eval()
        try:
            for prompt in self.watch.prompts:
                said = {"step": self.state.global_step, "prompt": prompt,
                        "answer": self._answer_to(prompt)}  # fmt: skip
                self.watch.say(Item("sample", said))
            short = False
        except Hurried:
            short = False
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            short = True
        self.model.train()
        set_random_states(states)
        if short:
            free_memory()
            told = "Memory ran out while the pinned questions were answered"
            self.watch.say(
                Notice(
                    f"{told} after step {self.state.global_step}, so answers are missing there. "
                    "The training goes on."
                )
            )

    def _answer_to(self, prompt: str) -> str:
        import torch

        trainer: Any = self
        ids = torch.tensor([self.watch.prompt_ids(prompt)], device=self.model.device)
        with torch.no_grad():
            made = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=self.watch.prompt_tokens, use_cache=True, temperature=None,
                top_p=None, top_k=None, stopping_criteria=[trainer.look],
            )  # fmt: skip
        return str(self.processing_class.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


class Listener:
    """Turns the trainer's hooks into events, and looks at Stop at every step.

    Mixed in before `transformers.TrainerCallback`.
    """

    trainer: Any

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.began, self.tokens = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.trainer.make_room()  # said now, not when the first checkpoint is due
        if state.global_step == 0:
            self.trainer.answer()
        self.watch.say(Progress(state.global_step, state.max_steps, "training"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.epoch_rng = random_states()

    def on_step_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **more: Any
    ) -> None:
        self.began, self.tokens = time.monotonic(), self.trainer._total_train_tokens
        # The order of an epoch's rows is drawn before its first step, and drawn again by a resume.
        steps = max(1, -(-len(train_dataloader) // args.gradient_accumulation_steps))
        first = state.global_step % steps == 0
        self.trainer.rng = self.epoch_rng if first else random_states()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.watch.cancelled() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
            self.watch.ended = "cancelled"
        elif state.global_step >= state.max_steps:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        watch, step = self.watch, state.global_step
        if "loss" not in logs:
            return
        seconds = max(time.monotonic() - self.began, 1e-9)
        values = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm")
                  if name in logs}  # fmt: skip
        values["tokens_per_second"] = (self.trainer._total_train_tokens - self.tokens) / seconds
        values["tokens"] = float(self.trainer._total_train_tokens)
        values["memory"] = memory_bytes()
        finite = math.isfinite(values["loss"]) and math.isfinite(values.get("grad_norm", 0.0))
        watch.bad = 0 if finite else watch.bad + 1
        if math.isfinite(values["loss"]):
            watch.last_loss = values["loss"]
        for name, value in values.items():
            watch.say(Metric(step, name, value))
        watch.say(Progress(step, state.max_steps, "training"))
        if watch.bad >= sealing.NOT_FINITE:
            control.should_training_stop = True
            watch.ended = "diverged"

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any
    ) -> None:
        watch, loss = self.watch, float((metrics or {}).get("eval_loss", math.nan))
        watch.say(Metric(state.global_step, "validation_loss", loss))
        better = watch.best is None or loss < watch.best
        watch.best, watch.waited = (loss, 0) if better else (watch.best, watch.waited + 1)
        if watch.early_stop and watch.waited >= watch.early_stop:
            control.should_training_stop = control.should_save = True
            watch.ended = watch.ended or "early"
            watch.say(
                Notice(
                    f"Ended early at step {state.global_step}: the validation loss had not become "
                    f"better for {watch.waited} snapshots."
                )
            )


def save_weights(model: Any, folder: Path) -> None:
    """The adapter, or all weights where there is none."""
    # PEFT would look for the base by its name to see whether its words have changed: never here.
    model.save_pretrained(
        folder, **({"save_embedding_layers": False} if hasattr(model, "peft_config") else {})
    )


def random_states() -> dict[str, Any]:
    """Of every generator that a training draws from."""
    import random

    import numpy as np
    import torch

    states = {"python": random.getstate(), "numpy": np.random.get_state(),
              "torch": torch.get_rng_state()}  # fmt: skip
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    import random

    import numpy as np
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
