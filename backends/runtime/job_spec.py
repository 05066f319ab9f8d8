"""What a job's spec.json asks for, read and checked: by the page before it is written, by the job
before it starts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backends import BACKENDS
from backends.base import Backend, ModelRef, Refused
from backends.finetune.data import source
from backends.finetune.pictures import files
from backends.models import data_cache
from backends.params import read

GRANT = "WERKBANK_GRANT_BYTES"  # the variable that says how much of the GPU a job may take
TEXTS = ("task", "method", "base", "dataset", "name")


@dataclass(frozen=True)
class Asked:
    """A spec as objects. `dataset` is a path, a name of the hub (`hub:…`), or empty."""

    backend: type[Backend]
    model: ModelRef
    options: Any
    params: Any
    dataset: str


def understand(spec: dict[str, Any], folder: Path) -> Asked:
    """Raises Refused, or ValueError in sentences. `folder` is the job's own.

    The params get `folder` and `dataset` from here, where their class has such fields.
    """
    for key in TEXTS:
        if not isinstance(spec.get(key, ""), str):
            raise ValueError(f"The job's {key} is no text. Write it in quotes.")
    backend = BACKENDS.get(spec.get("method", ""))
    if backend is None:
        known = ", ".join(BACKENDS)
        raise Refused(f"There is no method {spec.get('method', '')!r}.", f"Choose one of: {known}.")
    card = backend.card
    if spec.get("task") != card.task:
        raise Refused(
            f"The method {card.name} belongs to the task {card.task!r}, not {spec.get('task')!r}.",
            "Write that task into the spec.",
        )
    given = spec.get("params") or {}
    if not isinstance(given, dict):
        raise ValueError("The job's params are no object. Send named settings.")
    own = {f.name for f in fields(card.params)}
    known_here = {"folder": str(folder), "dataset": spec.get("dataset", "")}
    params = {**given, **{key: value for key, value in known_here.items() if key in own}}
    return Asked(
        backend,
        ModelRef.parse(spec.get("base") or "none:"),
        read(card.load_options, spec.get("options") or {}),
        read(card.params, params),
        spec.get("dataset", ""),
    )


def absolute_dataset(dataset: str, beside: Path) -> str:
    """A relative path counts from `beside`; a name of the hub stays. Raises Refused where there is
    no such file, or where it is no name."""
    if dataset.startswith("hub:"):
        data_cache.parse(dataset)
    if not dataset or dataset.startswith("hub:"):
        return dataset
    path = (beside / Path(dataset).expanduser()).resolve()
    if not path.exists():
        raise Refused(f"There is no dataset {path}.", "Name a file that is there.")
    return str(path)


def with_places(spec: dict[str, Any], beside: Path) -> dict[str, Any]:
    """The spec with absolute paths: of its dataset, and of the set that it is validated with.
    Raises Refused."""
    spec = {**spec, "dataset": absolute_dataset(str(spec.get("dataset") or ""), beside)}
    if path := _validated(spec).get("path"):
        spec = _validated_with(spec, path=absolute_dataset(str(path), beside))
    return spec


def with_hashes(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the sha256 of both, by which a resume knows them. Raises Refused."""
    try:
        spec = {**spec, "dataset_sha256": _digest_of(spec)}
        if path := _validated(spec).get("path"):
            spec = _validated_with(spec, sha256=digest(str(path)))
    except OSError as error:
        raise Refused(
            f"A dataset could not be read ({error.strerror or error}).",
            "Look whether its file is there and may be read, then try again.",
        ) from error
    return spec


def _validated(spec: dict[str, Any]) -> dict[str, Any]:
    params = spec.get("params")
    found = params.get("validation_set") if isinstance(params, dict) else None
    return found if isinstance(found, dict) else {}


def _validated_with(spec: dict[str, Any], **more: str) -> dict[str, Any]:
    params = {**spec["params"], "validation_set": {**_validated(spec), **more}}
    return {**spec, "params": params}


def _digest_of(spec: dict[str, Any]) -> str:
    """Of a spec's dataset, as its method reads it."""
    dataset = str(spec.get("dataset") or "")
    method = BACKENDS.get(str(spec.get("method") or ""))
    if method and method.card.pictures and Path(dataset).is_dir():
        return files.sha256(Path(dataset))
    return digest(dataset)


def digest(dataset: str) -> str:
    """The sha256 of a dataset's file, or of the names and contents of a folder's; "" for what is
    none. Takes a second a gigabyte. Raises Refused for a folder without files that can be rows."""
    path = Path(dataset)
    if not dataset or not path.exists():
        return ""
    if path.is_dir():
        return source.sha256_of(source.find(path, source.places_of(path)))
    return source.sha256_of(source.Source(path, ()))


def check_dataset(spec: dict[str, Any]) -> None:
    """Raises Refused where the dataset, a file or a folder, is gone."""
    dataset = str(spec.get("dataset") or "")
    if spec.get("dataset_sha256") and not Path(dataset).exists():
        raise Refused(f"The dataset {dataset} is gone.", "Put it back, then resume the job.")


def same_dataset(spec: dict[str, Any]) -> None:
    """Raises Refused where the dataset is not the one that the job was made with."""
    recorded, dataset = spec.get("dataset_sha256"), spec.get("dataset", "")
    check_dataset(spec)
    if recorded and _digest_of(spec) != recorded:
        raise Refused(
            f"The dataset {dataset} has changed since this job was made.",
            "Put the old one back and resume, or make a new job with this one.",
        )
