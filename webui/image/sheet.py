"""A grid's pictures on one sheet, with labels. Pillow, so in a thread; our own pictures only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import Refused
from backends.image.recipe import save_png
from webui.image.entry import Entry
from webui.image.gallery import Gallery
from webui.image.grid import grid_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Place = tuple[int, int, int]
MOST_PIXELS = 40_000_000  # of a sheet, 120 MB while it is drawn
GAP = 8  # px
SAID = ("prompt", "negative", "steps", "guidance", "width", "height", "seed", "scheduler")
PAPER, INK, EMPTY = "white", "black", "#ddd"


def keep_sheet(gallery: Gallery, entry: Entry) -> str:
    """Draw the sheet of a grid that was drawn; returns its id in the gallery.

    Raises Refused and OSError.
    """
    grid = grid_of(entry.grid or {})
    pictures = {}
    side = (int(entry.params.get("width", 512)), int(entry.params.get("height", 512)))
    for run in entry.runs:
        if run.pictures and len(run.place) == 3:
            with contextlib.suppress(Refused):  # deleted already
                pictures[(run.place[0], run.place[1], run.place[2])] = gallery.path(run.pictures[0])
    making = gallery.files.making / entry.id
    making.mkdir(parents=True, exist_ok=True, mode=0o700)
    said = {
        **{name: entry.params[name] for name in SAID if name in entry.params},
        "model": entry.model, "model_title": entry.title, "kind": "grid", "grid": entry.grid,
    }  # fmt: skip
    save_png(draw_sheet(pictures, grid.labels(), side), making / "sheet.png", said)
    return gallery.take(making / "sheet.png").id


def draw_sheet(
    pictures: Mapping[Place, Path], labels: Sequence[Sequence[str]], side: tuple[int, int]
) -> Image:
    """One picture for each place (x, y, z), from 0; a missing one stays grey.

    labels: of the columns, the rows and the sheets, "" where an axis is not used; the sheets stand
    below each other. side: px of a cell, made smaller where the whole would be too large.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns, rows, sheets = (len(axis) for axis in labels)
    width, height = fitting(side, columns * rows * sheets)
    size = max(10, min(width, height) // 16)
    font = ImageFont.load_default(size)
    left = min(width, max(_wide(label, size) for label in labels[1]))
    top, title = (
        2 * size if any(labels[0]) else 0,
        2 * size if any(labels[2]) else 0,
    )
    block = title + top + rows * (height + GAP)
    paper = Image.new("RGB", (left + columns * (width + GAP), sheets * block), PAPER)
    pen = ImageDraw.Draw(paper)
    for z, name in enumerate(labels[2]):
        y0 = z * block
        _write(pen, name, (0, y0, paper.width, y0 + title), font)
        for x, label in enumerate(labels[0]):
            at = left + x * (width + GAP)
            _write(pen, label, (at, y0 + title, at + width, y0 + title + top), font)
        for y, label in enumerate(labels[1]):
            at = y0 + title + top + y * (height + GAP)
            _write(pen, label, (0, at, left, at + height), font)
            for x in range(columns):
                corner = (left + x * (width + GAP), at)
                _place(paper, pen, pictures.get((x, y, z)), corner, (width, height))
    return paper


def fitting(side: tuple[int, int], cells: int) -> tuple[int, int]:
    """The largest size of a cell, of the same shape, with which all of them fit."""
    width, height = side
    much = (width * height * max(1, cells) / MOST_PIXELS) ** 0.5
    return (max(16, int(width / much)), max(16, int(height / much))) if much > 1 else side


def _place(
    paper: Image, pen: ImageDraw, path: Path | None, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    from PIL import Image

    try:
        if path is None:
            raise FileNotFoundError
        with Image.open(path, formats=("PNG",)) as picture:
            picture.thumbnail(size, reducing_gap=2.0)
            free = (size[0] - picture.width) // 2, (size[1] - picture.height) // 2
            paper.paste(picture.convert("RGB"), (corner[0] + free[0], corner[1] + free[1]))
    except (OSError, SyntaxError, ValueError):  # deleted since, or torn
        end = corner[0] + size[0] - 1, corner[1] + size[1] - 1
        pen.rectangle((corner, end), fill=EMPTY)


def _wide(label: str, size: int) -> int:
    """About the pixels that a row's label takes."""
    return int(len(label[:40]) * size * 0.6) + 2 * GAP if label else 0


def _write(pen: ImageDraw, label: str, box: tuple[int, int, int, int], font: object) -> None:
    """Centred, in as many lines as fit into the box, the rest cut off."""
    if not label:
        return
    left, top, right, bottom = box
    lines, line = [], ""
    for word in label.split():
        longer = f"{line} {word}".strip()
        if line and pen.textlength(longer, font=font) > right - left:  # type: ignore[arg-type]
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    high = int(pen.textbbox((0, 0), "Ag", font=font)[3]) + 2  # type: ignore[arg-type]
    lines = lines[: max(1, (bottom - top) // high)]
    text = "\n".join(_cut(pen, one, right - left, font) for one in lines)
    middle = (left + right) / 2, (top + bottom) / 2
    pen.multiline_text(middle, text, INK, font=font, anchor="mm", align="center")  # type: ignore[arg-type]


def _cut(pen: ImageDraw, text: str, width: int, font: object) -> str:
    while len(text) > 1 and pen.textlength(text, font=font) > width:  # type: ignore[arg-type]
        text = text[:-2].rstrip() + "…"
    return text
