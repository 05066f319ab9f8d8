"""Every picture of a dataset at one size, in one tensor. What cannot be read is named, left out."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.events import Event, Progress
from backends.finetune.pictures import captions
from backends.finetune.pictures.files import Opened, opened

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MOST_PIXELS = 64_000_000  # of one picture; a page of paper at 600 dpi has 35 million
TOLD_EVERY = 100  # pictures between two words of progress
NAMED = 8  # pictures named in one sentence


@dataclass
class Pictures:
    """What a dataset holds: kept and left out together are all that is in it.

    pixels     uint8 tensor [pictures, 3, side, side], RGB, on the CPU
    captions   of each, "" where it has none
    names      of each, as the dataset has them
    left_out   name and why, in words that follow "…, which "
    """

    pixels: Any
    captions: list[str]
    names: list[str]
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def notices(self) -> list[str]:
        """What the user should know, as sentences; one for each reason."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out:
            reasons.setdefault(why, []).append(name)
        told = []
        for why, names in reasons.items():
            some = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
            told.append(f"{len(names)} left out, since {why}: {some}.")
        return told


def read(
    path: Path, side: int, captioned: bool, stopped: Callable[[], bool]
) -> Generator[Event, None, Pictures]:
    """All pictures of a folder or ZIP: turned as EXIF says, filled and cropped to the middle.

    side: of the square, in pixels. captioned: leave out those without a caption. Raises Refused
    where nothing is left, Stopped.
    """

    from backends.finetune.data.rows import Stopped

    said: list[str] = []
    names: list[str] = []
    left_out: list[tuple[str, str]] = []
    with opened(path) as found:
        texts = captions.of(found)
        left_out += [(name, "there is no such picture") for name in captions.missing(found)]
        entries = found.pictures()
        pixels = _room_for(len(entries), side)
        for number, entry in enumerate(entries):
            if stopped():
                raise Stopped
            if number % TOLD_EVERY == 0:
                yield Progress(0, 0, f"reading pictures, {number:,} of {len(entries):,}")
            if captioned and not texts[entry.name]:
                left_out.append((entry.name, "it has no caption"))
                continue
            one, why = _one(found, entry, side)
            if why:
                left_out.append((entry.name, why))
                continue
            pixels[len(said)] = one
            said.append(texts[entry.name])
            names.append(entry.name)
    if not said:
        name, why = left_out[0]
        raise Refused(f"No picture of {path.name} can be used: of {name}, {why}.", "Look at it.")
    return Pictures(pixels[: len(said)], said, names, left_out)


def _room_for(count: int, side: int) -> Any:
    """An empty uint8 tensor [count, 3, side, side]. Raises Refused where the RAM has no room."""
    import psutil
    import torch

    size, free = count * 3 * side * side, psutil.virtual_memory().available
    if size > free:
        raise Refused(
            f"{count:,} pictures of {side} x {side} take {size / 1e9:.1f} GB of RAM, and "
            f"{free / 1e9:.1f} GB are free.",
            "Choose a smaller side, or fewer pictures.",
        )
    return torch.empty((count, 3, side, side), dtype=torch.uint8)


def _one(found: Opened, entry: Any, side: int) -> tuple[Any, str]:
    """A uint8 tensor [3, side, side], or why there is none."""
    import numpy
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(found.read(entry)), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return None, f"it has more than {MOST_PIXELS // 10**6} million pixels"
            pixels = numpy.array(as_square(image, side))
    except UnidentifiedImageError:
        return None, "it is no picture that can be read"
    except Image.DecompressionBombError:
        return None, f"it has more than {MOST_PIXELS // 10**6} million pixels"
    except (OSError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, RuntimeError) as error:  # fmt: skip
        broken = "truncated" in str(error).lower()
        return None, "it is cut off" if broken else "it is damaged"
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), ""


def as_square(image: Any, side: int) -> Any:
    """A PIL picture as RGB, `side` x `side` pixels: turned, on white, its middle."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
