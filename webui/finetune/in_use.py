"""What must not be deleted now: bases of trainings, and adapters that loaded models answer with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backends.base import ModelRef, Refused
from backends.models.catalogue import base_of
from backends.runtime.residency import GONE
from webui.bench import Bench


def bases(bench: Bench) -> list[ModelRef]:
    """Of the trainings that run or wait. Reads each job's state: about 0.1 ms a job."""
    wanted = [s.id for s in bench.jobs.listed() if s.live or s.status == "queued"]
    return list(_parsed(str(bench.jobs.spec(id).get("base") or "") for id in wanted))


def check_dataset(bench: Bench, place: Path) -> None:
    """Raises Refused where a training that may go on reads a dataset in the folder `place`."""
    for state in bench.jobs.listed():
        if not (state.live or state.resumable or state.status == "queued"):
            continue
        spec = bench.jobs.spec(state.id)
        beside = (spec.get("params") or {}).get("validation_set") or {}
        reads = [str(spec.get("dataset") or ""), str(beside.get("path") or "")]
        if any(Path(path).is_relative_to(place) for path in reads):
            raise Refused(
                f"The training {state.name} reads this dataset, and could not go on without it.",
                "Delete that training first, or wait for its end.",
            )


def attached(bench: Bench) -> list[ModelRef]:
    """The adapters of each loaded model's last answer, which the next one expects to find."""
    alive = [r for r in bench.supervisor.residents.values() if r.state not in GONE]
    return list(_parsed(ref for resident in alive for ref in resident.adapters))


def _parsed(texts: Iterable[str]) -> Iterable[ModelRef]:
    for text in texts:
        try:
            yield base_of(text)
        except Refused:
            continue


def delete_job(bench: Bench, job_id: str) -> None:
    """Put a training into the trash. Raises Refused while it runs, and while what it made is
    loaded, attached, or the base of another training."""
    taken = [*bench.loaded_refs(), *attached(bench)]
    if any((ref.kind, ref.name) == ("job", job_id) for ref in taken):
        raise Refused(
            "What this training made is loaded or attached in Chat.",
            "Unload that model first, then delete the training.",
        )
    if any((ref.kind, ref.name) == ("job", job_id) for ref in bases(bench)):
        raise Refused(
            "Another training that runs or waits has begun with what this one made.",
            "Stop that one first, or wait for its end.",
        )
    if any(ref.name == job_id for ref in bench.merges.running_refs()):
        raise Refused("Its adapter is being merged.", "Cancel that, or wait for its end.")
    bench.jobs.delete(job_id)
