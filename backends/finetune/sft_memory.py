"""What a training does where memory runs out, in a step or in the validation, and where its process
is to be gone in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.events import Notice
from backends.finetune.shortage import Hurried, OutOfMemory, free_memory, is_short

if TYPE_CHECKING:
    from backends.finetune.sft_trainer import Watch


class Sparing:
    """What is ours in the trainer where memory or time is short. Mixed in before
    `trl.SFTTrainer`."""

    args: Any
    state: Any
    control: Any
    watch: Watch

    def look(self, ids: Any = None, scores: Any = None, **more: Any) -> Any:
        """Between two pieces of work. Raises Hurried. Also a criterion of `generate`."""
        import torch

        if self.watch.hurried():
            raise Hurried
        return None if ids is None else torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def prediction_step(self, *args: Any, **more: Any) -> Any:
        self.look()
        return super().prediction_step(*args, **more)  # type: ignore[misc]

    def training_step(self, *args: Any, **more: Any) -> Any:
        self.look()
        try:
            return super().training_step(*args, **more)  # type: ignore[misc]
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            raise OutOfMemory(self.state.global_step, str(error)) from None

    def learn(self, found: str | None) -> OutOfMemory | None:
        """Train to the end, or until there is no time left; nothing of the step under way is kept
        then. Returns what did not fit, without the frames that hold its tensors."""
        trainer: Any = self
        try:
            trainer.train(resume_from_checkpoint=found)
        except Hurried:
            self.watch.ended = "cancelled"
            if self.state.global_step and not self.watch.bad:
                trainer.save_sealed(trainer.rng)
        except OutOfMemory as error:
            return OutOfMemory(error.step, str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            # Not in its forward or backward pass: the optimizer may have changed some weights.
            return OutOfMemory(self.state.global_step, str(error), torn=True)
        return None

    def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
        """The validation, with fewer rows at once as often as they do not fit; {} where not even
        one does, and the training goes on without."""
        from backends.finetune.sft_trainer import random_states, set_random_states

        states, step = random_states(), self.state.global_step
        while True:
            try:
                return dict(super().evaluate(*args, **more))  # type: ignore[misc]
            except Hurried:  # a resume goes on without it
                return self._unmeasured()
            except (MemoryError, RuntimeError) as error:
                if not is_short(error):
                    raise
            self._metrics["eval"].clear()  # type: ignore[attr-defined]
            set_random_states(states)
            free_memory()
            rows = self.args.per_device_eval_batch_size
            if rows == 1:
                told = f"Memory ran out in the validation after step {step}, so it is left out."
                self.watch.say(Notice(f"{told} The training goes on."))
                return self._unmeasured()
            self.args.per_device_eval_batch_size = rows // 2
            told = f"Memory ran out in the validation after step {step}."
            self.watch.say(Notice(f"{told} Fewer rows are taken at once now: {rows // 2}."))

    def _unmeasured(self) -> dict[str, float]:
        self.control.should_evaluate = False  # else it would be due again after the next step
        return {}


def halved(watch: Watch) -> tuple[int, int]:
    """A smaller micro-batch, and the accumulation that keeps the effective batch."""
    micro = watch.micro_batch
    less = next(n for n in range(micro // 2, 0, -1) if micro % n == 0)
    return less, watch.accumulation * (micro // less)
