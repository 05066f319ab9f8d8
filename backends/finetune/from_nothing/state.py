"""What a checkpoint of a training from nothing holds: all that a resume needs, as safetensors.

state.json                          stage, steps, micro-batches, the last loss
LEARNER.weights|average|optimizer   the stage that is being learned
done/MODULE                         what earlier stages have learned
tokenizer/                          vocab.json, merges.txt, once there is one

There is no state of a generator in it: all chance comes from the seed and a step's number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.finetune import sealing
from backends.finetune.from_nothing import words
from backends.finetune.from_nothing.stages import Bench, Stage
from backends.runtime import checkpoints

OWN = "state.json"
FILES = ("weights", "average", "optimizer")


@dataclass
class Where:
    """How far a training has come: stage number `stage` has done `done` of its steps."""

    kind: str
    stage: int = 0
    done: int = 0
    parts: int = 1
    last_loss: float | None = None


def write(job: Path, step: int, where: Where, stage: Stage, bench: Bench, keep: int) -> Path:
    """The checkpoint after `step` steps of all stages, sealed. Raises DiskShort, OSError."""
    folder = job / "checkpoints" / checkpoints.name_of(step)
    if (folder / checkpoints.MANIFEST).is_file():
        return folder
    room_for(job, stage)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    (folder / "done").mkdir(parents=True)
    for name, learner in stage.learners.items():
        for file, tensors in learner.state().items():
            save(folder / f"{name}.{file}.safetensors", tensors)
    for module, tensors in bench.finished.items():
        save(folder / "done" / f"{module}.safetensors", tensors)
    if bench.words:
        words.write(folder / "tokenizer", bench.words)
    (folder / OWN).write_text(json.dumps(asdict(where)), "utf-8")
    sealing.seal(job, folder, keep)
    return folder


def room_for(job: Path, stage: Stage) -> None:
    """Raises DiskShort where the next checkpoint does not fit."""
    size = sum(learner.bytes() for learner in stage.learners.values())
    sealing.make_room(job, size, least=size)  # a later stage's are larger than those before


def read(folder: Path, bench: Bench) -> Where:
    """How far it had come; `bench` gets what was finished. Raises Refused for another's."""
    import safetensors.torch

    try:
        where = Where(**json.loads((folder / OWN).read_text("utf-8")))
        if where.kind != bench.params.kind:
            raise ValueError(where.kind)
        for file in sorted((folder / "done").glob("*.safetensors")):
            bench.finished[file.stem] = safetensors.torch.load_file(file)
        bench.words = {
            file.name: file.read_text("utf-8") for file in sorted(folder.glob("tokenizer/*"))
        }
    except (OSError, ValueError, TypeError) as error:
        raise not_ours(folder) from error
    return where


def load(folder: Path, stage: Stage) -> None:
    """The weights of the stage under way. Raises Refused for another's."""
    import safetensors.torch

    try:
        for name, learner in stage.learners.items():
            learner.load(
                {f: safetensors.torch.load_file(folder / f"{name}.{f}.safetensors") for f in FILES}
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise not_ours(folder) from error


def not_ours(folder: Path) -> Refused:
    return Refused(
        f"The checkpoint {folder.name} is not one of this kind of training.",
        "Delete it, or begin a new job.",
    )


def save(file: Path, tensors: Mapping[str, Any]) -> None:
    """Any tensors, as safetensors wants them: on the CPU, in one piece, not shared."""
    import safetensors.torch

    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    safetensors.torch.save_file(plain, file)
