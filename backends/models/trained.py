"""What trainings left in HOME/jobs, by reference.

`job:<id>` is what a finished one made, an adapter or a whole model; `job:<id>@<step>` is one of its
snapshots.

Only names and small JSON files are read here; the headers of the weights are looked at where every
other adapter and model is checked.
"""

from __future__ import annotations

import calendar
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import ModelRef, Refused
from backends.runtime import checkpoints
from backends.runtime.disk import read_json

ADAPTER, WHOLE, TRASH = "adapter", "model", ".trash"
WITH_SNAPSHOTS = 20  # the newest jobs, whose snapshots are listed; all others go by reference
OTHER = "Choose another one from the list."


@dataclass(frozen=True)
class Trained:
    """One thing that a training made. `base` is the reference of what it was trained on."""

    ref: ModelRef
    path: Path
    title: str
    base: str
    whole: bool = False  # a model of its own, and no adapter


def locate(jobs: Path, ref: ModelRef) -> Path:
    """The folder that a `job:` reference names; `jobs` is HOME/jobs. Raises Refused."""
    job = jobs / ref.name
    if "/" in ref.name or ref.file or not (job / "spec.json").is_file():
        raise _gone(jobs, ref)
    title = name_of(job)
    if ref.revision:
        return _snapshot(job, title, ref.revision)
    for made in (job / ADAPTER, job / WHOLE):
        if made.is_dir():
            return made
    raise Refused(
        f"The training {title} has not made its adapter yet.",
        "Wait for its end, or choose one of its snapshots.",
    )


def _gone(jobs: Path, ref: ModelRef) -> Refused:
    deleted = jobs / TRASH / ref.name
    if "/" not in ref.name and deleted.is_dir():
        return Refused(
            f"The training {name_of(deleted)} was deleted.",
            "Bring it back on the Fine-tune tab, or choose another adapter.",
        )
    return Refused(f"There is no training {ref.name}.", OTHER)


def _snapshot(job: Path, title: str, revision: str) -> Path:
    if not revision.isascii() or not revision.isdigit() or len(revision) > 12:
        raise Refused(f"{revision[:40]!r} is no step of the training {title}.", OTHER)
    step = int(revision)
    folder = job / "checkpoints" / checkpoints.name_of(step)
    if not folder.is_dir():
        raise Refused(
            f"The snapshot after step {step:,} of {title} is not kept any more.",
            "A training keeps its newest ones: choose another step.",
        )
    if not (folder / checkpoints.MANIFEST).is_file():
        raise Refused(f"The snapshot after step {step:,} of {title} is not whole.", OTHER)
    return folder


def name_of(job: Path) -> str:
    """What people call the training in the folder `job`."""
    name = read_json(job / "name.json").get("name") or read_json(job / "spec.json").get("name")
    return str(name or job.name)[:80]


def title_of(jobs: Path, ref: ModelRef) -> str:
    """How people know what `ref` names: "first", or "first, step 30"."""
    return _titled(name_of(jobs / ref.name), ref.revision)


def made_at(path: Path) -> Trained | None:
    """What `path` is, where it lies in a training's folder; else None."""
    snapshot = path.parent.name == "checkpoints"
    job = path.parent.parent if snapshot else path.parent
    if not (job / "spec.json").is_file():
        return None
    step = str(checkpoints.step_of(path)) if snapshot else ""
    title = _titled(name_of(job), step)
    base = _base(read_json(job / "spec.json"))
    return Trained(ModelRef("job", job.name, step), path, title, base)


def base_of(jobs: Path, ref: ModelRef) -> str:
    """The reference of what the training that `ref` names began with; "" where it says none."""
    return _base(read_json(jobs / ref.name / "spec.json"))


def steps_of(job: Path) -> list[int]:
    """The steps of the snapshots that can be used, in order."""
    found = checkpoints.steps(job / "checkpoints")
    return [checkpoints.step_of(f) for f in found if (f / checkpoints.MANIFEST).is_file()]


def listed(jobs: Path) -> list[Trained]:
    """All of them, the newest training first; of each the result, then its snapshots, newest first.

    A tenth of a millisecond for each job. Two trainings of one name are told apart by their time.
    """
    found = list(_all(jobs))
    names = {made.ref.name: made.title for made in found}
    for how in (_when, str):
        count = Counter(names.values())
        names = {id: f"{name} ({how(id)})" if count[name] > 1 else name
                 for id, name in names.items()}  # fmt: skip
    return [replace(made, title=_titled(names[made.ref.name], made.ref.revision)) for made in found]


def _all(jobs: Path) -> Iterator[Trained]:
    """With the bare name of the training as the title."""
    for number, id in enumerate(reversed(_ids(jobs))):
        job = jobs / id
        spec = read_json(job / "spec.json")
        name = str(read_json(job / "name.json").get("name") or spec.get("name") or id)[:80]
        base = _base(spec)
        for part in (ADAPTER, WHOLE):
            if (job / part).is_dir():
                yield Trained(ModelRef("job", id), job / part, name, base, part == WHOLE)
        for step in reversed(steps_of(job)) if number < WITH_SNAPSHOTS else ():
            folder = job / "checkpoints" / checkpoints.name_of(step)
            whole = (folder / "config.json").is_file()
            if not whole and not (folder / "adapter_config.json").is_file():
                continue  # what only a resume reads, as a training from nothing writes it
            yield Trained(ModelRef("job", id, str(step)), folder, name, base, whole)


def _ids(jobs: Path) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(jobs) if entry.name[:1].isdigit()]
    except OSError:
        return []
    return sorted(name for name in names if (jobs / name / "spec.json").is_file())


def _titled(name: str, step: str) -> str:
    return f"{name}, step {int(step)}" if step.isdigit() else name


def _when(id: str) -> str:
    """Of an id that begins with the time in UTC: `24 Nov 20:31:07`, as it was here."""
    try:
        at = calendar.timegm(time.strptime(id[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return id
    return time.strftime("%d %b %H:%M:%S", time.localtime(at))


def _base(spec: dict[str, Any]) -> str:
    base = spec.get("base")
    return base if isinstance(base, str) else ""
