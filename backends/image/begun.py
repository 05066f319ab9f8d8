"""What a batch is begun with: a text, a picture, a picture and a mask, and what steers it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.events import Notice
from backends.image import sources
from backends.image.families import Family
from backends.image.params import MOST_PIXELS, ImageParams

if TYPE_CHECKING:
    from PIL.Image import Image

WAYS = {"text": "from text", "image": "from a picture", "inpaint": "with a mask"}


@dataclass
class Steering:
    """ControlNets with a picture for each."""

    network: Any  # one, or a list
    pictures: list[Image]
    weights: list[float]
    starts: list[float]
    ends: list[float]

    def _one(self, values: list[Any]) -> Any:
        return values if isinstance(self.network, list) else values[0]

    def images(self, size: tuple[int, int] | None = None) -> Any:
        """One for each network, in the size of what is drawn: it counts for a whole batch."""
        return self._one([one.resize(size) if size else one for one in self.pictures])

    def call(self) -> dict[str, Any]:
        return {
            "controlnet_conditioning_scale": self._one(self.weights),
            "control_guidance_start": self._one(self.starts),
            "control_guidance_end": self._one(self.ends),
        }


@dataclass
class Begun:
    """kind: text, image or inpaint; said: the same for the recipe, which knows outpaint too."""

    kind: str
    said: str
    size: tuple[int, int]
    strength: float = 1.0
    picture: Image | None = None
    mask: Image | None = None
    steering: Steering | None = None
    larger: tuple[int, int] | None = None  # the size of a second pass

    def kept(self, drawn: Image) -> Image:
        """What the mask leaves is the old picture's, to the last bit."""
        from PIL import Image

        if self.picture is None or self.mask is None:
            return drawn
        old = self.picture
        if old.size != drawn.size:  # of a larger one
            old = old.resize(drawn.size, Image.Resampling.LANCZOS)
        return Image.composite(drawn, old, self.mask.resize(drawn.size))


def begin(params: ImageParams, family: Family, multiple: int) -> Iterator[Notice | Begun]:
    """Notices, and last what to begin with. Raises Refused.

    multiple: px that a side must divide by.
    """
    if not params.image:
        check_size(family, params.width, params.height, multiple)
        size = params.width, params.height
        yield Begun("text", "text", size, larger=_larger(params, size, multiple))
        return
    kind = "inpaint" if params.mask or any(params.extend) else "image"
    if not family.can(kind):
        raise Refused(
            f"{family.title} draws from text only here, not {WAYS[kind]}.",
            "Take the picture away, or load a model of another kind.",
        )
    opened = sources.open_picture(Path(params.image))
    for notice in opened.notices:
        yield Notice(notice)
    picture, mask, said = opened.picture, None, kind
    if any(params.extend):
        said = "outpaint"
        mask = _mask(params, *picture.size)
        picture, mask = sources.extended(picture, params.extend, mask, multiple)
    else:
        check_size(family, params.width, params.height, multiple)
        mask = _mask(params, params.width, params.height)
        picture, notice = sources.fitted(picture, params.width, params.height)
        if notice:
            yield Notice(notice)
    if params.variation:
        yield Notice("Variations are of pictures from text: this one was begun from a picture.")
    larger = _larger(params, picture.size, multiple)
    yield Begun(kind, said, picture.size, params.strength, picture, mask, larger=larger)


def _larger(params: ImageParams, size: tuple[int, int], multiple: int) -> tuple[int, int] | None:
    """What it is enlarged to, None for no second pass. Raises Refused where that is too large."""
    if params.enlarge <= 1:
        return None
    width, height = (max(multiple, round(s * params.enlarge / multiple) * multiple) for s in size)
    if width * height > MOST_PIXELS:
        raise Refused(
            f"Enlarged, the picture is {width} x {height} pixels, which is too large.",
            "Enlarge it by less, or begin with a smaller one.",
        )
    return width, height


def _mask(params: ImageParams, width: int, height: int) -> Image | None:
    return sources.open_mask(Path(params.mask), width, height) if params.mask else None


def check_size(family: Family, width: int, height: int, multiple: int) -> None:
    """Raises Refused where the latents of this family cannot have that size."""
    for side, name in ((width, "width"), (height, "height")):
        if side % multiple:
            nearest = max(multiple, round(side / multiple) * multiple)
            raise Refused(
                f"The {name} is {side} pixels, and {family.title} draws multiples of {multiple}.",
                f"Choose {nearest}.",
            )
