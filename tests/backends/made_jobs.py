"""A training without a model, put into the job's own process: real files, real kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import BACKENDS
from backends.base import Backend, Card, ModelRef, NoOptions, Refused
from backends.events import Artifact, Done, Event, Item, Metric, Notice, Progress
from backends.params import Params, setting
from backends.runtime import checkpoints
from backends.runtime.process import CHECKOUT, child_environment


@dataclass(frozen=True)
class CountingParams(Params):
    max_steps: int = setting(5, "Steps", min=1)
    save_steps: int = setting(2, "Save every", min=1)
    step_seconds: float = setting(0.0, "Seconds of a step")
    save_seconds: float = setting(0.0, "Seconds of a checkpoint")
    fault: str = setting("", "Fault")
    fault_at: int = setting(3, "Step of the fault")
    deaf: bool = setting(False, "Deaf")
    folder: str = setting("", "Folder", hidden=True)
    dataset: str = setting("", "Dataset", hidden=True)


class Counting(Backend):
    """Trains nothing: its weights are the sum of the steps, so that a wrong resume shows."""

    card = Card(name="counting", task="finetune", params=CountingParams)

    def load(self, model: ModelRef, options: NoOptions) -> None:
        self.report(Progress(0, 0, "pretending to load"))

    def unload(self) -> None:
        return None

    def run(self, params: CountingParams) -> Iterator[Event]:
        folder = Path(params.folder)
        from_here = checkpoints.newest(folder / "checkpoints")
        done = checkpoints.step_of(from_here) if from_here else 0
        total = int((from_here / "weights").read_text("utf-8")[:20]) if from_here else 0
        print("a library prints", params.dataset)
        yield Notice(f"Resumed after step {done}." if done else "It begins.")
        for step in range(done + 1, params.max_steps + 1):
            time.sleep(params.step_seconds)
            total += step
            if params.fault and step == params.fault_at:
                yield from misbehave(params.fault)
                if params.fault == "diverge":
                    yield Done(usage={"status": "diverged", "message": "No.", "hint": "Halve."})
                    return
            yield Metric(step, "loss", float("nan") if step == 4 else 1.0 / step)
            yield Metric(step, "lr", 0.1)
            yield Progress(step, params.max_steps)
            said = {"prompt": "Who are you?", "answer": f"I am {total}."}
            yield Item("sample", {"step": step, "text": f"I am {total}", **said})
            stopping = self.cancelled() and not params.deaf
            if stopping or step % params.save_steps == 0:
                time.sleep(params.save_seconds)
                place = folder / "checkpoints" / checkpoints.name_of(step)
                place.mkdir(parents=True, exist_ok=True)
                (place / "weights").write_text(f"{total:020}" + "x" * 1000, encoding="utf-8")
                checkpoints.seal(place)
                yield Artifact(str(place), "checkpoint")
            if stopping:
                yield Done(cancelled=True)
                return
        (folder / "adapter").write_text(str(total), encoding="utf-8")
        yield Done(usage={"steps": params.max_steps})


def misbehave(fault: str) -> Iterator[Event]:
    if fault == "kill":
        os.kill(os.getpid(), 9)
    elif fault == "refuse":
        raise Refused("It was asked to refuse.", "Do not ask.")
    elif fault == "oom":
        raise MemoryError
    elif fault == "raise":
        raise KeyError("lost")
    elif fault == "cause":
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")
    yield Notice("at the fault")


BACKENDS_HERE = "import backends, tests.backends.made_jobs as m; m.plant()"


def plant() -> None:
    """Make it one of the backends of this process."""
    BACKENDS["counting"] = Counting


def planted(tmp_path: Path) -> str:
    """A PYTHONPATH whose processes have it among their backends."""
    place = tmp_path / "planted"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(BACKENDS_HERE, encoding="utf-8")
    return str(place)


def spec(**more: Any) -> dict[str, Any]:
    params = more.pop("params", {})
    return {"task": "finetune", "method": "counting", "base": "none:", "dataset": "",
            "name": "mein Versuch", "params": params, **more}  # fmt: skip


def job_folder(tmp_path: Path, **more: Any) -> Path:
    folder = tmp_path / "jobs" / "20260101-000000-x"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec(**more)), encoding="utf-8")
    return folder


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "backends.train", str(folder), *words]


def begin(
    folder: Path, tmp_path: Path, *words: str, preexec: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """A job's process, as the page starts it but held by the test."""
    return subprocess.Popen(
        command(folder, *words), cwd=CHECKOUT, text=True, stdin=subprocess.DEVNULL,
        env=child_environment(tmp_path, {"PYTHONPATH": f"{planted(tmp_path)}:{CHECKOUT}"}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=preexec,
    )  # fmt: skip


def run(folder: Path, tmp_path: Path, *words: str, **more: Any) -> tuple[int, str]:
    process = begin(folder, tmp_path, *words, **more)
    out, _ = process.communicate(timeout=30)
    return process.returncode, out


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def until(
    condition: Callable[[], Any], seconds: float = 15, saw: Callable[[], Any] = lambda: ""
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that: {saw()}"
        time.sleep(0.02)
