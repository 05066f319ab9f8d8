"""Training on a real GPU: models of real shapes, random weights, the memory of a 12 GB card.

    python -m benchmarks.train_gpu [--cases qlora-7b,qlora-13b,packing,peer] [--pairs 5]
                                   [--data FILE] [--out FOLDER] [--tiny]

qlora-7b, qlora-13b  20 steps at the longest context that `fit_train` says fits into 11.3 GiB, the
                     CUDA context included: how often memory ran out, foretold against measured
packing              rows of mixed lengths: packed as Werkbank does it against TRL's defaults,
                     tokens of rows a second, under the same cap
peer                 our trainer against a plain TRL script with the same settings, interleaved

Each case has a process of its own, whose last line is its result as JSON. Needs a CUDA GPU, torch,
transformers, peft, accelerate, trl, datasets, bitsandbytes; `--tiny` runs small shapes on the CPU,
where nothing is judged. Without `--data` (a JSON list of rows) the mixed lengths are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.card import fit_load, fit_train
from backends.card.fit import Prediction
from backends.card.fit_train import TrainPlan
from backends.card.plan_train import Chosen, Lengths, Room, Wanted, best_plan
from backends.card.source import Source, of_config
from benchmarks import fit_gpu
from benchmarks.fit_gpu import GB, Cell
from benchmarks.measure import Bar, Row

CAP = int(11.3 * GB)
CASES = ("qlora-7b", "qlora-13b", "packing", "peer")
ONE_B = fit_gpu.LLAMA | {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4,
}  # fmt: skip
fit_gpu.SHAPES["1b"] = ONE_B
SETTLED = 3  # steps that are not timed
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass
class Ran:
    """What one training said. `tokens` and `at` (monotonic seconds) of each step."""

    tokens: list[float]
    at: list[float]
    ran_out: int = 0
    failed: str = ""
    peak: int = 0  # bytes that PyTorch reserved at most
    allocated: int = 0

    def rate(self) -> float:
        """Tokens a second after the first steps."""
        if len(self.at) <= SETTLED:
            return 0.0
        tokens = self.tokens[-1] - self.tokens[SETTLED - 1]
        return tokens / (self.at[-1] - self.at[SETTLED - 1])


# Models and rows


def build(shape: str, bits: str, tiny: bool) -> Any:
    import torch

    cell = Cell(shape, "train", shape, bits, 64)
    model = fit_gpu.built_model(cell, tiny, device())
    if tiny:
        model = model.float() if bits == "bf16" else model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return model


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def words_of(size: int) -> Any:
    """A tokenizer with one token for each of `size` words: "<pad>", "</s>", "w2", "w3" …"""
    import tokenizers
    import transformers

    vocabulary = {"<pad>": 0, "</s>": 1} | {f"w{n}": n for n in range(2, size)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="</s>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>"
    )


def rows_of(lengths: list[int], words: int, seed: int = 3) -> list[list[int]]:
    """Rows of random words, each with as many tokens as asked, its end included."""
    dice = random.Random(seed)
    return [[dice.randrange(2, words) for _ in range(n - 1)] + [1] for n in lengths]


def as_file(rows: list[list[int]], path: Path) -> Path:
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps({"text": " ".join(f"w{n}" for n in row[:-1])}) + "\n")
    return path


def mixed_lengths(count: int, data: Path | None) -> list[int]:
    """As uneven as `data` has them (four bytes a token), else as conversations usually are."""
    if data:
        found = [len(json.dumps(row, ensure_ascii=False)) // 4
                 for row in json.loads(data.read_text("utf-8"))]  # fmt: skip
        found = [max(8, n) for n in found]
        return [found[i % len(found)] for i in range(count)]
    dice = random.Random(11)
    return [min(2000, max(8, int(dice.lognormvariate(4.9, 1.0)))) for _ in range(count)]


# The two trainers


def ours(model: Any, tokenizer: Any, dataset: Path, bits: str, **settings: Any) -> Ran:
    """Werkbank's own run, on a model that is there already."""
    import torch

    from backends.base import ModelRef
    from backends.events import Failed, Metric, Notice
    from backends.finetune.sft import Sft
    from backends.finetune.sft_params import SftParams

    backend = Sft()
    backend.ref = ModelRef("folder", "random")
    backend.device, backend.quantisation = device(), bits
    backend.tokenizer, backend.model = tokenizer, model
    backend.template = backend.system = ""
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # as `Sft.load` does
    ran = Ran([], [])
    with tempfile.TemporaryDirectory() as folder:
        params = SftParams(folder=folder, dataset=str(dataset), save_steps=10_000, **settings)
        for event in backend.run(params):
            if isinstance(event, Metric) and event.name == "tokens":
                ran.tokens.append(event.value)
                ran.at.append(time.monotonic())
            elif isinstance(event, Notice):
                print(event.message, flush=True)
                ran.ran_out += event.message.startswith("Memory ran out")
            elif isinstance(event, Failed):
                ran.failed = event.message
    if hasattr(backend.model, "peft_config"):
        backend.model.unload()
    return ran


def plain(model: Any, tokenizer: Any, rows: list[list[int]], lora: bool, **settings: Any) -> Ran:
    """What a script of a few lines does with TRL."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    datasets.disable_progress_bars()
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(True)
    ran = Ran([], [])

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            ran.tokens.append(float(trainer._total_train_tokens))
            ran.at.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        args = trl.SFTConfig(
            output_dir=folder, save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=device() == "cpu", **settings,
        )  # fmt: skip
        trainer = trl.SFTTrainer(
            model=model, args=args, processing_class=tokenizer, callbacks=[Clock()],
            train_dataset=datasets.Dataset.from_dict({"input_ids": rows, "labels": rows}),
            peft_config=peft.LoraConfig(**LORA) if lora else None,
        )  # fmt: skip
        trainer.train()
    if lora:
        trainer.model.unload()
    return ran


def settled(train: Callable[[], Ran], model: Any) -> Ran:
    """A run that begins and ends with nothing of its own on the card."""
    import gc

    import torch

    gc.collect()
    model.gradient_checkpointing_disable()  # TRL's defaults leave it on
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ran = train()
    if cuda:
        torch.cuda.synchronize()
        ran.peak = torch.cuda.max_memory_reserved()
        ran.allocated = torch.cuda.max_memory_allocated()
    vars(model).pop("forward", None)  # TRL's own way from the last layer to the loss
    return ran


def cap() -> None:
    """What is left of 11.3 GiB beside the CUDA context is all that PyTorch may take."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((CAP - fit_load.CUDA_CONTEXT) / total)


# What is foretold


def source_of(shape: str, tiny: bool) -> Source:
    config = fit_gpu.config_of(Cell(shape, "train", shape, "nf4", 64), tiny)
    source = of_config(config)
    assert source
    return source


def longest(shape: str, tiny: bool) -> tuple[TrainPlan, Prediction]:
    """QLoRA at the longest context, in steps of 128 tokens, that is said to fit."""
    source = source_of(shape, tiny)
    best = TrainPlan(quantisation="nf4", length=128)
    for length in range(128, 257 if tiny else 32_769, 128):
        plan = replace(best, length=length)
        if fit_train.predict(source, plan).total > CAP:
            break
        best = plan
    return best, fit_train.predict(source, best)


def chosen(rows: list[list[int]], tiny: bool) -> Chosen:
    """What Werkbank would choose for these rows under the cap, for a base in 16 bits."""
    import torch

    lengths = sorted(map(len, rows))
    bars = tuple((n, n + 64, sum(n <= size < n + 64 for size in lengths))
                 for n in range(0, lengths[-1] + 1, 64))  # fmt: skip
    known = Lengths(len(rows), sum(lengths), lengths[-1], bars, exact=True)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return best_plan(
        source_of("1b", tiny), known, Room("cuda:0", CAP, name), Wanted(quantisation="bf16")
    )


# The cases


def qlora(shape: str, given: argparse.Namespace) -> dict[str, Any]:
    plan, said = longest(shape, given.tiny)
    print(f"{shape}: {plan.length} tokens, foretold {said.total / GB:.2f} GiB", flush=True)
    model = build(shape, "nf4", given.tiny)
    words = model.config.vocab_size
    rows = rows_of([plan.length] * given.steps * 2, words)
    cap()
    dataset = as_file(rows, given.out / f"{shape}.jsonl")
    train = lambda: ours(  # noqa: E731
        model, words_of(words), dataset, "nf4", max_steps=given.steps, accumulation=2,
        micro_batch=1, max_length=plan.length, learning_rate=1e-4, checkpointing="on",
    )  # fmt: skip
    ran = settled(train, model)
    measured = ran.peak + fit_load.CUDA_CONTEXT
    return {
        "length": plan.length, "steps": len(ran.at), "ran_out": ran.ran_out, "failed": ran.failed,
        "foretold": said.total, "measured": measured, "reserved": ran.peak, "rate": ran.rate(),
        "allocated": ran.allocated, "driver": fit_gpu.used_bytes() if not given.tiny else 0,
        "parts": said.parts,
    }  # fmt: skip


def packing(given: argparse.Namespace) -> dict[str, Any]:
    model = build("1b", "bf16", given.tiny)
    words = model.config.vocab_size
    rows = rows_of(mixed_lengths(300 if given.tiny else 4000, given.data), words)
    made = chosen(rows, given.tiny)
    plan = made.plan
    print(f"chosen: {plan}, packing {made.packing}, accumulation {made.accumulation}", flush=True)
    dataset = as_file(rows, given.out / "mixed.jsonl")
    tokenizer = words_of(words)
    cap()
    rates: dict[str, list[float]] = {"ours": [], "defaults": []}
    peaks: dict[str, list[int]] = {"ours": [], "defaults": []}
    steps = 6 if given.tiny else given.steps
    for number in range(given.pairs + 1):  # the first pair warms kernels up, for both
        one = settled(lambda: ours(
            model, tokenizer, dataset, "bf16", max_steps=steps, packing=made.packing,
            max_length=plan.length, micro_batch=plan.micro_batch, accumulation=made.accumulation,
            checkpointing="on" if plan.checkpointing else "off", optimizer=made.optimizer,
        ), model)  # fmt: skip
        other = settled(
            lambda: plain(
                model, tokenizer, rows, True, max_steps=3 * steps, bf16=not given.tiny
            ), model
        )  # fmt: skip
        for name, ran in (("ours", one), ("defaults", other)):
            if number:
                rates[name].append(ran.rate())
                peaks[name].append(ran.peak)
        print(f"packed {one.rate():,.0f}, TRL's defaults {other.rate():,.0f} tokens/s", flush=True)
    mean = statistics.mean(len(row) for row in rows)
    return {"rates": rates, "peaks": peaks, "mean_length": mean, "longest": max(map(len, rows)),
            "chosen": str(plan), "packing": made.packing}  # fmt: skip


def peer(given: argparse.Namespace) -> dict[str, Any]:
    """Both with NF4, LoRA on all linear layers, checkpointing, the same rows and batches."""
    bits, shape = "nf4", "1b" if given.tiny else given.shape
    length = 64 if given.tiny else 2048
    model = build(shape, bits, given.tiny)
    words = model.config.vocab_size
    rows = rows_of([length] * 64, words)
    dataset = as_file(rows, given.out / "peer.jsonl")
    tokenizer = words_of(words)
    steps = 6 if given.tiny else given.steps
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    peaks: dict[str, list[int]] = {"ours": [], "plain": []}
    for number in range(given.pairs + 1):  # the first pair warms kernels up, for both
        one = settled(lambda: ours(
            model, tokenizer, dataset, bits, max_steps=steps, micro_batch=2, accumulation=2,
            max_length=length, checkpointing="on", learning_rate=1e-4,
        ), model)  # fmt: skip
        other = settled(lambda: plain(
            model, tokenizer, rows, True, max_steps=steps, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, max_length=length, gradient_checkpointing=True,
            learning_rate=1e-4, lr_scheduler_type="linear", logging_steps=1, bf16=not given.tiny,
            optim="adamw_torch", dataloader_pin_memory=not given.tiny,
        ), model)  # fmt: skip
        print(f"ours {one.rate():,.0f}, plain {other.rate():,.0f} tokens/s; "
              f"{one.peak / GB:.2f}, {other.peak / GB:.2f} GiB", flush=True)  # fmt: skip
        for name, ran in (("ours", one), ("plain", other)) if number else ():
            rates[name].append(ran.rate())
            peaks[name].append(ran.peak)
    return {"rates": rates, "peaks": peaks, "shape": shape, "length": length}


# The run


def judged(name: str, got: dict[str, Any]) -> list[Row]:
    if name.startswith("qlora"):
        error = got["foretold"] / max(got["measured"], 1) - 1
        told = (f"{got['length']:,} tokens, {got['rate']:,.0f} tokens/s, foretold "
                f"{got['foretold'] / GB:.2f}, measured {got['measured'] / GB:.2f} GiB "
                f"{got['failed']}")  # fmt: skip
        return [
            Bar(f"{name}: steps at the longest context", 20, at_least=True, digits=0).row(
                got["steps"], told
            ),
            Bar(f"{name}: memory ran out", 0, digits=0).row(got["ran_out"] + bool(got["failed"])),
            Bar(f"{name}: foretold peak is off by", 10, " %", digits=1).row(abs(100 * error), told),
        ]
    first, second = list(got["rates"])
    ratio = statistics.median(got["rates"][first]) / statistics.median(got["rates"][second])
    told = "; ".join(
        f"{who}: " + ", ".join(f"{rate:,.0f}" for rate in rates)
        for who, rates in got["rates"].items()
    )
    if name == "packing":
        told += f"; rows of {got['mean_length']:.0f} tokens in the mean, {got['longest']} at most"
        return [
            Bar("mixed lengths: packed against TRL's defaults", 2, at_least=True).row(ratio, told)
        ]
    peaks = {who: statistics.median(found) for who, found in got["peaks"].items()}
    rows = [
        Bar("against a plain TRL script: tokens/s", 0.97, at_least=True, digits=3).row(ratio, told)
    ]
    if peaks[second]:
        memory = Bar("against a plain TRL script: peak memory", 1.03, digits=3)
        told = f"{peaks[first] / GB:.2f} against {peaks[second] / GB:.2f} GiB reserved"
        rows.append(memory.row(peaks[first] / peaks[second], told))
    return rows


def in_process(name: str, argv: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.train_gpu", *argv, "--case", name]
    environment = os.environ | {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    last = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            last = line
            if not line.startswith("{"):  # neither the result nor what transformers logs
                print(line, end="", flush=True)
    try:
        got: dict[str, Any] = json.loads(last)
    except ValueError:
        raise SystemExit(f"{name} broke: {last}") from None
    return got


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--case", choices=CASES, help="one, in this process")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--shape", default="7b", help="of the peer's case")
    parser.add_argument("--data", type=Path, help="a JSON list, whose rows' lengths are taken")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "train_gpu")))
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.case:
        work = {"packing": packing, "peer": peer}.get(given.case)
        got = work(given) if work else qlora(given.case.partition("-")[2], given)
        print(json.dumps(got))
        return 0
    rows = []
    for name in given.cases.split(","):
        got = in_process(name, sys.argv[1:])
        with (given.out / "train.jsonl").open("a") as file:
            file.write(json.dumps({"case": name, **got}) + "\n")
        for row in judged(name, got):
            rows.append(row)
            print(f"{row.what}: {row.figure} ({row.bar}) {row.holds}; {row.note}", flush=True)
    for left in given.out.glob("*.jsonl"):  # random words, larger than all that is kept
        if left.name != "train.jsonl":
            left.unlink()
    return 0 if given.tiny or all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
