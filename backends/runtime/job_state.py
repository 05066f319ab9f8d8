"""What a job's folder says: never stored, derived from its files and its lock at each look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.runtime.disk import read_json
from backends.runtime.process import is_alive, is_locked

ENDED = ("finished", "stopped", "paused", "failed", "diverged")
RESUMABLE = ("stopped", "paused", "failed", "diverged", "interrupted")
LIVE = ("starting", "loading", "running", "pausing", "stopping")
CUT = ("The job was interrupted.", "Resume goes on from the last checkpoint.")


@dataclass(frozen=True)
class JobState:
    """How a job stands.

    status        new, queued, one of `LIVE`, one of `ENDED`, or interrupted (it was killed)
    message, hint two sentences on how it ended, or what it is doing; `detail` is for the log
    eta_seconds   None where nothing foretells it
    """

    id: str
    name: str
    status: str
    task: str = ""
    method: str = ""
    step: float = 0
    total: float = 0
    message: str = ""
    hint: str = ""
    detail: str = ""
    eta_seconds: float | None = None
    pid: int = 0
    resumed: int = 0
    updated: float = 0.0
    position: int = 0  # in the queue, from 1; 0: it does not wait

    @property
    def live(self) -> bool:
        """Whether a process works on it."""
        return self.status in LIVE

    @property
    def resumable(self) -> bool:
        """Whether Resume makes sense."""
        return self.status in RESUMABLE


def read_state(folder: Path, spec: dict[str, Any], position: int) -> JobState:
    """The state of the job in `folder`. Four small reads, no waiting.

    A held lock is a live process; exit.json is the end; a process that has not taken the lock yet
    is starting; a place in the queue is waiting; what has run and has none of these was killed.
    """
    said, end = read_json(folder / "state.json"), read_json(folder / "exit.json")
    name = read_json(folder / "name.json").get("name") or spec.get("name") or folder.name
    known: dict[str, Any] = {
        "id": folder.name, "name": str(name), "task": str(spec.get("task", "")),
        "method": str(spec.get("method", "")), "step": said.get("step", 0),
        "total": said.get("total", 0), "resumed": said.get("resumed", 0),
        "updated": said.get("updated", 0.0), "position": position,
    }  # fmt: skip
    pid = int(said.get("pid", 0))
    told = {"message": said.get("message", ""), "eta_seconds": said.get("eta_seconds"), "pid": pid}
    if is_locked(folder / "job.lock"):
        status = said.get("status")
        return JobState(status=status if status in LIVE else "running", **known, **told)
    # It may have ended between the two looks: what it wrote last is written before the lock goes.
    end = end or read_json(folder / "exit.json")
    if said.get("status") == "starting" and is_alive(pid, float(said.get("create_time", 0))):
        return JobState(status="starting", **known, **told)
    if position:
        return JobState(status="queued", **known)
    if end.get("status") in ENDED:
        words: dict[str, Any] = {
            key: str(end.get(key, "")) for key in ("message", "hint", "detail")
        }
        return JobState(status=end["status"], **known, **words)
    if said:
        return JobState(status="interrupted", message=CUT[0], hint=CUT[1], **known)
    return JobState(status="new", **known)
