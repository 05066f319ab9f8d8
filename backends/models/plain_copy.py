"""A model whose config names code of its own (`auto_map`) as a model of the user's, without that.

For families that transformers brings itself, such as Phi-4-mini: the setting is for versions that
did not. The weights are linked, not copied, where the disk can.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from backends.base import ModelRef, Refused
from backends.card.shapes import FAMILIES
from backends.models import adding, library
from backends.models.check import check_path, files_inside, read_json

KEY = "auto_map"
WANTED = (".safetensors", ".json", ".txt", ".model", ".jinja")


def can_be_made(folder: Path) -> bool:
    """Whether the code that its config names is one that is here under the same family's name."""
    file = folder / "config.json"
    try:
        config = read_json(file) if file.is_file() else {}
    except Refused:
        return False
    known = isinstance(config, dict) and config.get("model_type") in FAMILIES
    return known and bool(config.get(KEY))


def make(ref: ModelRef) -> ModelRef:
    """The copy, in HOME/models, checked like any other. Raises Refused, and leaves nothing then."""
    source = library.locate(ref)
    if not source.is_dir() or not can_be_made(source):
        raise Refused(
            f"{ref.name} needs code of its own, which is not part of transformers.",
            "Use another model.",
        )
    models = library.models_folder()
    staged = models / f".adding-{secrets.token_hex(6)}"
    name = adding.clean_name(f"{ref.name.rpartition('/')[2]}-plain")
    made = staged / name
    try:
        for file in files_inside(source):
            target = made / file.relative_to(source)
            if file.suffix not in WANTED:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json" and "config" in file.name:
                plain = json.dumps(_without(read_json(file)), indent=2, ensure_ascii=False)
                target.write_text(plain, encoding="utf-8")
            else:
                _link(file.resolve(), target)
        check_path(made)
        return ModelRef("folder", library.name_id(adding.move_in(made, name).name))
    except OSError as error:
        raise adding.disk_sentence(error, models) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(entry) for key, entry in value.items() if key != KEY}
    return [_without(entry) for entry in value] if isinstance(value, list) else value


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)
