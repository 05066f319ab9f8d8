"""Grids and film strips as PNG, in a job's folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.events import Artifact, Event, Item
from backends.finetune.from_nothing.stages import Drawn
from backends.runtime import checkpoints

SHOWN = 200  # characters of a caption in an event
GAP = 2  # pixels between two pictures


def told(job: Path, step: int, drawn: Drawn) -> Iterator[Event]:
    """Write what was drawn after `step` into JOB/samples/, and say so. Raises OSError."""
    name = checkpoints.name_of(step)
    columns = math.ceil(math.sqrt(len(drawn.pictures)))
    file = written(job / "samples" / f"{name}.png", sheet(drawn.pictures, columns))
    yield Artifact(str(file), "samples")
    data = {"step": step, "file": f"samples/{file.name}", "columns": columns,
            "captions": [caption[:SHOWN] for caption in drawn.captions]}  # fmt: skip
    yield Item("sample_grid", data)
    if drawn.film is not None:
        strip = sheet(drawn.film, len(drawn.film))
        yield Artifact(str(written(job / "samples" / f"{name}.film.png", strip)), "film")


def sheet(pictures: Any, columns: int) -> Any:
    """uint8 [n, 3, h, w] as one PIL picture, in rows of `columns`, on white."""
    import torch
    from PIL import Image

    count, _, high, wide = pictures.shape
    rows = math.ceil(count / columns)
    whole = torch.full((rows * (high + GAP) - GAP, columns * (wide + GAP) - GAP, 3), 255,
                       dtype=torch.uint8)  # fmt: skip
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (high + GAP), (number % columns) * (wide + GAP)
        whole[top : top + high, left : left + wide] = picture.permute(1, 2, 0)
    return Image.fromarray(whole.numpy())


def written(file: Path, picture: Any) -> Path:
    """A PNG, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    picture.save(partial, format="PNG")
    os.replace(partial, file)
    return file
