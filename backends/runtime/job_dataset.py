"""A dataset that a job names on the hub: brought into the job's folder before the job begins.

JOB/dataset.json             which version and part it is, written once: a resume takes the same
JOB/dataset/<owner--name>/   its files, second names of those in the hub's cache
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.base import ModelRef, Refused
from backends.events import Event, Notice, Progress
from backends.models import data_cache
from backends.models.gguf_copy import FULL_DISK
from backends.models.repo import Choice, Repo
from backends.runtime import fetching
from backends.runtime.disk import read_json, write_json
from backends.runtime.job_spec import digest

NOTED = "dataset.json"


def brought(
    spec: dict[str, Any], folder: Path, tell: Callable[[Event], None], wanted: Callable[[], bool]
) -> dict[str, Any] | None:
    """The spec with the path and the hash of a dataset that it names as `hub:…`; as it is, where it
    names none. None where the job is to end first. Raises Refused, OSError for a full disk."""
    dataset = str(spec.get("dataset") or "")
    if not dataset.startswith("hub:"):
        return spec
    said = read_json(folder / NOTED)
    if said.get("asked") != dataset or not _all_there(folder, said):
        again = said if said.get("asked") == dataset else {}
        if not (found := _found(dataset, again, folder, tell, wanted)):
            return None
        said = _laid_out(dataset, *found, folder, tell) | again
    return {**spec, "dataset": str(folder / said["path"]), "dataset_sha256": said["sha256"]}


def pinned(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The spec as it runs again on the very same version, where the job in `folder` took one."""
    said = read_json(folder / NOTED)
    if said.get("asked") != spec.get("dataset") or "pinned" not in said:
        return spec
    return {**spec, "dataset": said["pinned"], "dataset_sha256": said["sha256"]}


def _all_there(folder: Path, said: dict[str, Any]) -> bool:
    """Whether every file is where it was put. Their contents are hashed later."""
    try:
        return all((folder / path).stat().st_size == size for path, size in said["files"].items())
    except (OSError, KeyError, AttributeError):
        return False


def _found(
    dataset: str,
    again: dict[str, Any],
    folder: Path,
    tell: Callable[[Event], None],
    wanted: Callable[[], bool],
) -> tuple[Repo, Choice] | None:
    """On this machine, or downloaded. `again`: what an earlier run took. None: not wanted."""
    name, revision, choice = data_cache.parse(dataset)
    revision, choice = str(again.get("commit") or revision), str(again.get("choice") or choice)
    if found := data_cache.here(name, revision, choice):
        return found
    asked = {"what": "dataset", "name": name, "revision": revision, "commit": "", "choice": choice}
    plan: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for frame in fetching.fetched(asked, folder / "tmp", wanted):
        if frame.get("say") == "plan":
            plan = frame
            rest = (int(frame["bytes"]) - int(frame["done"])) / 1e6
            tell(Notice(f"Downloading {rest:,.1f} MB of the dataset {name} from the hub."))
        elif frame.get("say") == "progress":
            tell(_progress(name, frame, int(plan.get("bytes") or 0)))
        elif frame.get("say") in ("done", "failed"):
            last = frame
    if not wanted():
        return None
    if last.get("say") == "done":
        if found := data_cache.here(name, str(plan["commit"]), str(plan["choice"])):
            return found
    if last.get("kind") == "offline":
        if found := data_cache.here(name, revision, choice, offline=True):
            return found
    # As a full disk pauses a job wherever else it is met.
    cause = OSError(errno.ENOSPC, "no room") if last.get("kind") == "full" else None
    raise _refused(name, last) from cause


def _progress(name: str, frame: dict[str, Any], total: int) -> Progress:
    done, speed = int(frame["done"]), int(frame["speed"])
    note = f"downloading {name}"
    if total:
        note += f": {100 * done / total:.0f} % of {total / 1e6:,.0f} MB"
    if speed:
        note += f", {speed / 1e6:.1f} MB/s"
    if frame.get("note"):
        note += f". {frame['note']}"
    return Progress(done, total, note)


def _refused(name: str, failed: dict[str, Any]) -> Refused:
    """Why it did not come, as the process said it; offline, that it is needed here."""
    message, hint = str(failed.get("message") or ""), str(failed.get("hint") or "")
    if failed.get("kind") == "offline":
        return Refused(
            f"The dataset {name} is not on this machine, and it cannot be downloaded: "
            f"{message[:1].lower()}{message[1:]}",
            "Get it while there is a network, then resume the job; what has come is kept.",
        )
    if not message:
        return Refused(
            f"The download of the dataset {name} ended unexpectedly.",
            "Resume the job: what has come is kept.",
        )
    return Refused(message, hint)


def _laid_out(
    dataset: str, repo: Repo, choice: Choice, folder: Path, tell: Callable[[Event], None]
) -> dict[str, Any]:
    place = folder / "dataset" / repo.name.replace("/", "--")
    try:
        path = data_cache.lay_out(repo.name, repo.commit, choice, place)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise Refused(
            f"The files of {repo.name} could not be put into {place} ({error.strerror}).",
            "Check who may write there, then resume the job.",
        ) from error
    named = ModelRef("hub", repo.name, repo.commit, choice.id)
    said = {
        "asked": dataset,
        "name": repo.name,
        "commit": repo.commit,
        "choice": choice.id,
        "pinned": str(named),
        "path": path.relative_to(folder).as_posix(),
        "files": {
            (place / file.path).relative_to(folder).as_posix(): file.bytes for file in choice.files
        },
        "sha256": digest(str(path)),
    }
    write_json(folder / NOTED, said, durable=True)
    files = f"{len(choice.files):,} files" if len(choice.files) > 1 else choice.files[0].path
    tell(Notice(f"The dataset is {repo.name} at version {repo.commit[:12]}: {files}."))
    return said
