"""Pictures that come in: opened without trusting them, and brought to the size that is drawn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import Refused
from backends.image.params import MOST_PIXELS, SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SIDE = 16_384  # px of a picture that comes in
MOST_SOURCE = 128 * 10**6  # px
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
OTHER = "Take another picture, or save this one again as PNG or JPEG."
OVERLAP = 8  # px of the old picture that are drawn anew beside an extension


@dataclass
class Opened:
    """A picture in RGB, and sentences about what was done to it."""

    picture: Image
    notices: list[str] = field(default_factory=list)


def open_picture(path: Path) -> Opened:
    """Upright and in RGB. Raises Refused for what is no picture, broken, or too large to decode."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    name, notices = path.name, list[str]()
    _check_text(path)
    try:
        with warnings.catch_warnings():
            # Its size is judged below, and what its metadata lack is of no matter here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as file:
                _check_size(name, *file.size)
                if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":
                    notices.append(f"{name} moves: its first frame is used.")
                file.seek(0)
                file.load()
                picture = ImageOps.exif_transpose(file)
                return Opened(_rgb(picture), notices)
    except UnidentifiedImageError as error:
        raise Refused(f"{name} is not a picture of a kind that is known here.", OTHER) from error
    except Image.DecompressionBombError as error:
        raise Refused(f"The picture {name} is too large.", "Make it smaller first.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Refused(f"The picture {name} is damaged or incomplete.", OTHER, str(error)) from error


def _check_text(path: Path) -> None:
    """SVG is a program for drawing, which can ask for other files."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise Refused(f"The picture {path.name} cannot be read.", OTHER, str(error)) from error
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype")) or b"<svg" in text:
        raise Refused(
            f"{path.name} is an SVG, which is not a picture but instructions for one.",
            "Save it as PNG first.",
        )


def _check_size(name: str, width: int, height: int) -> None:
    if width > MOST_SIDE or height > MOST_SIDE or width * height > MOST_SOURCE:
        raise Refused(
            f"The picture {name} is {width} x {height} pixels, which is too large to open.",
            f"Make it smaller first: at most {MOST_SIDE} pixels a side.",
        )


def _rgb(picture: Image) -> Image:
    """Every mode as RGB: 16 bits are brought to 8, and what is transparent lies on white."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.mode == "P" or picture.has_transparency_data:
        picture = picture.convert("RGBA")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        clear = picture.convert("RGBA")
        ground = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(ground, clear).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image) -> Image:
    """Grey of 16 or 32 bits, or of fractions: Pillow itself cuts what is above 255."""
    import numpy
    from PIL import Image

    values = numpy.asarray(picture).astype("float64")
    most = 1.0 if picture.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    most = 255.0 if picture.mode in ("I", "F") and 1 < values.max(initial=0) <= 255 else most
    grey = (values / most * 255).round().clip(0, 255).astype("uint8")
    return Image.fromarray(grey, "L")


# To the size that is drawn


def fitted(picture: Image, width: int, height: int) -> tuple[Image, str]:
    """Scaled to cover the size, and cut evenly where it has another shape; a sentence then."""
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture, ""
    made = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    was = picture.size
    cut = abs(was[0] * height - was[1] * width) > max(was) * max(width, height) * 0.01
    if not cut:
        return made, ""
    return made, (
        f"The picture is {was[0]} x {was[1]} and what is drawn {width} x {height}: it was cut "
        "evenly at two sides."
    )


def open_mask(path: Path, width: int, height: int) -> Image:
    """Grey: white is drawn anew. Raises Refused where it is all black."""
    from PIL import Image, ImageOps

    mask = open_picture(path).picture.convert("L")
    if mask.size != (width, height):
        mask = ImageOps.fit(mask, (width, height), Image.Resampling.BILINEAR)
    if not mask.getextrema()[1]:
        raise Refused("The mask is empty.", "Paint over what is to be drawn anew.")
    return mask


def extended(
    picture: Image, sides: tuple[int, ...], mask: Image | None = None, multiple: int = SIDE
) -> tuple[Image, Image]:
    """The picture on a larger canvas, its edges drawn out, and the mask of what is new.

    The canvas is rounded up to what latents divide by, at the right and below. Raises Refused
    where it is too large.
    """
    import numpy
    from PIL import Image

    left, above, right, below = sides
    width, height = picture.width + left + right, picture.height + above + below
    right, below = right + -width % multiple, below + -height % multiple
    width, height = width + -width % multiple, height + -height % multiple
    if width * height > MOST_PIXELS:
        raise Refused(
            f"Extended, the picture is {width} x {height} pixels, which is too large.",
            "Extend it by less, or make it smaller first.",
        )
    pad = ((above, below), (left, right))
    canvas = numpy.pad(numpy.asarray(picture), (*pad, (0, 0)), mode="edge")
    new = numpy.full((height, width), 255, "uint8")
    edges = [min(OVERLAP, side) for side in (left, above, right, below)]
    old = numpy.zeros((picture.height, picture.width), "uint8")
    if mask is not None:
        old = numpy.asarray(mask.resize(picture.size)).copy()
    old[:, : edges[0]] = 255
    old[: edges[1], :] = 255
    old[:, picture.width - edges[2] :] = 255
    old[picture.height - edges[3] :, :] = 255
    new[above : above + picture.height, left : left + picture.width] = old
    return Image.fromarray(canvas), Image.fromarray(new, "L")
