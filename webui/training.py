"""`launch.py train`: one job in this terminal. This process becomes the job's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from backends.base import Refused
from backends.models import library
from backends.runtime.jobs import Jobs
from backends.runtime.process import CHECKOUT, is_locked
from webui.setup.handover import become


def train(spec: Path | None, resume: Path | None, home: Path | None) -> int:
    """Make the job of `spec`, or go on with the one in the folder `resume`, until it ends.

    Returns 0 only if it finished. Ctrl-C stops it with a checkpoint, a second one without.
    """
    try:
        jobs, id = _again(resume) if resume else _new(spec, home)
        if jobs.state(id).status == "finished":
            print(f"This job is finished already: {jobs.path(id)}")
            return 0
        folder = jobs.prepare(id)
        print(f"The job is in {folder}", flush=True)
        environment = jobs.environment(id)
    except (Refused, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "backends.train", str(folder), "--progress"]
    return become(command, CHECKOUT, environment)


def _new(spec: Path | None, home: Path | None) -> tuple[Jobs, str]:
    assert spec
    if not spec.is_file():
        raise Refused(f"There is no file {spec}.", "Name the JSON file that describes the job.")
    try:
        asked = json.loads(spec.read_text("utf-8-sig"))
    except ValueError as error:
        raise Refused(f"{spec} is no JSON ({error}).", "Mend it, then try again.") from error
    if not isinstance(asked, dict):
        raise Refused(f"{spec} holds no object.", "Write named values in braces.")
    folder = (home or library.home()).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jobs = Jobs(folder)
    return jobs, jobs.create(asked, beside=spec.resolve().parent)


def _again(resume: Path) -> tuple[Jobs, str]:
    folder = resume.expanduser().resolve()
    jobs = Jobs(folder.parent.parent)
    if folder.parent.name != "jobs" or not (folder / "spec.json").is_file():
        raise Refused(f"{folder} is no job.", "Name a folder in jobs of Werkbank's home.")
    if is_locked(folder / "job.lock"):
        raise Refused("This job runs already.", "Watch it on the page, or stop it there.")
    return jobs, jobs.path(folder.name).name
