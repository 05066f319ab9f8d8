"""Old pickled weights become a model of the user's own in safetensors, in a throw-away process.

The process (`backends/models/convert.py`) is offline and has no token; the page only reads its
lines. What it made is checked by its headers before it takes its place in HOME/models.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.base import ModelRef, Refused
from backends.events import Progress
from backends.models import adding, library
from backends.models.check import check_path
from backends.models.convert import pickles_of
from backends.runtime.tool import run_tool

BROKEN = "Take a safetensors or GGUF version of the model."


@dataclass(frozen=True)
class Converted:
    """What came out, to be shown.

    tensors, bytes  of the result; `before` the bytes of the pickled files
    types           how many tensors of each type, as {"float16": 200}
    largest         the largest tensors: name, shape, type
    left_out        how many entries were no weights (a training's counters) and were left
    dropped         tensors that are one with another: {name: the one that was kept}
    """

    ref: ModelRef
    tensors: int
    bytes: int
    before: int
    types: dict[str, int]
    largest: list[tuple[str, list[int], str]]
    left_out: int
    dropped: dict[str, str]


async def convert_upload(
    file: Path, uploads: Path, report: Callable[[Progress], None] = lambda event: None
) -> Converted:
    """The same for a file that was dragged into the page: it must lie in the folder `uploads`, and
    is removed afterwards. Raises Refused."""
    source = adding.uploaded(file, uploads)
    try:
        return await convert(source, report)
    finally:
        source.unlink(missing_ok=True)


async def convert(
    source: Path, report: Callable[[Progress], None] = lambda event: None
) -> Converted:
    """Convert a pickled file (.bin, .pt, .pth, .ckpt) or a model's folder with such weights.

    source: a path that the library located (`library.locate`) or that lies among the uploads;
    never one that a browser gave. Raises Refused, two sentences. Cancelling ends the process and
    leaves nothing behind.
    """
    models = library.models_folder()
    size = await asyncio.to_thread(_size_to_convert, source)
    staged = models / f".converting-{secrets.token_hex(6)}"
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
        if free < 1.1 * size + 50_000_000:
            raise Refused(
                f"The copy needs {size / 1e9:.1f} GB, and {models} has {free / 1e9:.1f} GB free.",
                "Free some space, then convert it again.",
            )
        staged.mkdir()
        died = Refused(
            f"The process that opened {source.name} ended before it was done "
            "(too much memory or time, or a damaged file).",
            BROKEN,
        )
        words = [str(source), str(staged)]
        said = await run_tool("backends.models.convert", words, died, report)
        made, name = staged, adding.clean_name(_title(source))
        if source.is_file():
            made, name = next(staged.glob("*.safetensors")), f"{name}.safetensors"
        else:
            name = f"{name}-safetensors"
        await asyncio.to_thread(check_path, made)
        place = adding.move_in(made, name)
    except OSError as error:
        raise adding.disk_sentence(error, models) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Converted(
        ref=ModelRef("folder", library.name_id(place.name)),
        tensors=int(said["tensors"]),
        bytes=int(said["bytes"]),
        before=int(said["before"]),
        types={str(k): int(v) for k, v in said["types"].items()},
        largest=[(str(n), [int(e) for e in shape], str(t)) for n, shape, t in said["largest"]],
        left_out=int(said["left_out"]),
        dropped={str(k): str(v) for k, v in said["dropped"].items()},
    )


def _title(source: Path) -> str:
    """What to call the result: a snapshot in the hub's cache is named by a commit."""
    if source.is_dir() and source.parent.name == "snapshots":
        return source.parent.parent.name.rpartition("--")[2]
    return source.stem if source.is_file() else source.name


def _size_to_convert(source: Path) -> int:
    try:
        return sum(pickle.stat().st_size for pickle in pickles_of(source))
    except OSError as error:
        raise Refused(
            f"{source.name} cannot be read ({error.strerror}).", "Check who may read it."
        ) from error
