"""An adapter of a training, kept: among the user's own models, or as a .zip to take away.

Three files: PEFT's config without the paths of this machine, the weights, and a card.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zipfile
from pathlib import Path

from backends.base import ModelRef, Refused
from backends.models import adapters, adding, library, trained
from backends.models.adapters import CONFIG, WEIGHTS
from backends.models.catalogue import base_of, base_title
from backends.models.check import check_path, read_json
from backends.runtime.disk import read_json as read_small

CARD = "README.md"
SPARE_BYTES = 10_000_000


def save(ref: ModelRef, name: str) -> ModelRef:
    """Copy it into HOME/models, whole or not at all; how it is named from then on.

    Raises Refused where it is no adapter, is broken, or the disk is full. For a thread.
    """
    source = _adapter(ref)
    models = library.models_folder()
    staged = models / f".adding-{secrets.token_hex(6)}"
    try:
        models.mkdir(parents=True, exist_ok=True)
        _check_room(source, models)
        (staged / "adapter").mkdir(parents=True)
        _fill(staged / "adapter", source, ref)
        check_path(staged / "adapter")
        place = adding.move_in(staged / "adapter", adding.clean_name(name))
    except OSError as error:
        raise adding.disk_sentence(error, models) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return ModelRef("folder", library.name_id(place.name))


def zip_into(ref: ModelRef, file: Path) -> None:
    """Write it as the .zip `file`, whole or not at all. Raises Refused. For a thread."""
    source = _adapter(ref)
    staged = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        _check_room(source, file.parent)
        staged.mkdir()
        _fill(staged, source, ref)
        with zipfile.ZipFile(staged / "zip", "w") as out:  # weights do not get smaller
            for name in (CONFIG, WEIGHTS, CARD):
                out.write(staged / name, name)
        os.replace(staged / "zip", file)
    except OSError as error:
        raise adding.disk_sentence(error, file.parent) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _adapter(ref: ModelRef) -> Path:
    path = library.locate(ref)
    if not (path / CONFIG).is_file():
        raise Refused(
            "This training made a whole model, and no adapter.",
            "It is in the list of models already.",
        )
    adapters.read_adapter(path)
    return path


def _check_room(source: Path, folder: Path) -> None:
    need = 2 * (source / WEIGHTS).stat().st_size + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Refused(
            f"The copy needs {need / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free.",
            "Free some space, then try it again.",
        )


def _fill(folder: Path, source: Path, ref: ModelRef) -> None:
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    config = read_json(source / CONFIG)
    config["base_model_name_or_path"] = name_of_base(ref)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    (folder / CARD).write_text(card_of(ref), "utf-8")


def name_of_base(ref: ModelRef) -> str:
    """What an adapter of a training says of its base: OWNER/NAME where it is from the hub."""
    base = trained.base_of(library.jobs_folder(), ref)
    try:
        found = base_of(base)
    except Refused:
        return ""
    return found.name if found.kind == "hub" else base_title(base)


def card_of(ref: ModelRef) -> str:
    """The model card. What PEFT writes beside a snapshot says little, and a path."""
    jobs = library.jobs_folder()
    known = library.locate(ref) / CARD
    if not ref.revision and known.is_file():
        return known.read_text("utf-8")
    spec = read_small(jobs / ref.name / "spec.json")
    data, digest = Path(str(spec.get("dataset", ""))).name, spec.get("dataset_sha256", "")
    when = f": a snapshot, taken after step {ref.revision}" if ref.revision else ""
    return (
        f"---\nlibrary_name: peft\ntags: [werkbank, {spec.get('method', '')}]\n---\n\n"
        f"# {trained.title_of(jobs, ref)}\n\n"
        f"An adapter for {name_of_base(ref)}, trained by Werkbank{when}.\n\n"
        f"- Dataset: {data}, sha256 `{digest}`\n"
    )
