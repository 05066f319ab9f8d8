"""A training's adapter and its base become a model of the user's own, in a throw-away process
(`backends/models/merge.py`). What it made is checked before it takes its place in HOME/models.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.models import adapters, adding, library, trained
from backends.models.adapter_copy import CARD, card_of, name_of_base
from backends.models.catalogue import base_of, base_title
from backends.models.check import check_path
from backends.runtime.tool import run_tool

SPARE_BYTES = 50_000_000


@dataclass(frozen=True)
class Merged:
    """What came out: the new model, the bytes of its weights, how many of its tensors changed."""

    ref: ModelRef
    bytes: int
    tensors: int
    changed: int


async def merge(
    ref: ModelRef, name: str, report: Callable[[Progress], None] = lambda event: None
) -> Merged:
    """Merge the adapter `ref` of a training; the result is called `name`. Raises Refused.

    Cancelling ends the process and leaves nothing behind.
    """
    source, base = await asyncio.to_thread(_found, ref)
    models = library.models_folder()
    staged = models / f".converting-{secrets.token_hex(6)}"
    made = staged / "model"
    died = Refused("The merging ended before it was done.", "Merge again, with more memory free.")
    try:
        made.mkdir(parents=True)
        words = [str(base.ref), str(source), str(made)]
        said = await run_tool("backends.models.merge", words, died, report)
        await asyncio.to_thread(_finish, made, ref, base.ref)
        place = await asyncio.to_thread(adding.move_in, made, adding.clean_name(name))
    except OSError as error:
        raise adding.disk_sentence(error, models) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Merged(
        ModelRef("folder", library.name_id(place.name)),
        int(said["bytes"]), int(said["tensors"]), int(said["changed"]),
    )  # fmt: skip


def _found(ref: ModelRef) -> tuple[Path, library.Listed]:
    """The adapter's folder, and its base. Raises Refused, above all where the disk has no room."""
    source = library.locate(ref)
    if not adapters.is_adapter(source):
        raise Refused(
            "This training made a whole model: there is nothing to merge.", "Chat with it as it is."
        )
    adapters.read_adapter(source)
    text = trained.base_of(library.jobs_folder(), ref)
    wanted = base_of(text)
    base = next((m for m in library.list_models("chat") if m.ref == wanted), None)
    if base is None or base.format != "safetensors":
        raise Refused(
            f"The base of this training, {base_title(text)}, is not on this machine as "
            "safetensors.",
            "Get it again on the Models tab.",
        )
    models = library.models_folder()
    models.mkdir(parents=True, exist_ok=True)
    need, free = base.bytes + SPARE_BYTES, shutil.disk_usage(models).free
    if free < need:
        raise Refused(
            f"The merged model needs {need / 1e9:.1f} GB, and {models} has {free / 1e9:.1f} GB "
            "free.",
            "Free some space, then merge again.",
        )
    return source, base


def _finish(made: Path, ref: ModelRef, base: ModelRef) -> None:
    """The card, and what the model was trained from; then it is checked like any other."""
    title = trained.title_of(library.jobs_folder(), ref)
    text = card_of(ref).replace("library_name: peft", "library_name: transformers", 1)
    told = f"\n\nThe adapter of the training {title}, merged into {name_of_base(ref)}.\n"
    (made / CARD).write_text(text.rstrip() + told, "utf-8")
    (made / library.ORIGIN).write_text(json.dumps({"base": str(base)}), "utf-8")
    check_path(made)
