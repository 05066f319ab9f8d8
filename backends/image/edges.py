"""The edges of a picture as Canny finds them, which a ControlNet of that name is steered by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

LOW, HIGH = 100.0, 200.0  # of the gradient: kept beside a strong edge, and always


def canny(picture: Image, low: float = LOW, high: float = HIGH) -> Image:
    """White lines on black, in RGB."""
    import numpy
    from PIL import Image, ImageFilter

    grey = picture.convert("L").filter(ImageFilter.GaussianBlur(1.0))
    across, down = _slopes(numpy.asarray(grey).astype("float32"))
    strength = numpy.abs(across) + numpy.abs(down)
    thin = numpy.where(_is_ridge(strength, across, down), strength, 0)
    kept, weak = thin >= high, thin >= low
    while True:  # weak edges count where they hang together with strong ones
        grown = _grown(kept) & weak
        if (grown == kept).all():
            break
        kept = grown
    return Image.fromarray((kept * 255).astype("uint8"), "L").convert("RGB")


def _slopes(grey: Any) -> tuple[Any, Any]:
    """Sobel's."""
    import numpy

    p = numpy.pad(grey, 1, mode="edge")
    smooth_down = p[:-2] + 2 * p[1:-1] + p[2:]
    smooth_across = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return smooth_down[:, 2:] - smooth_down[:, :-2], smooth_across[2:] - smooth_across[:-2]


def _is_ridge(strength: Any, across: Any, down: Any) -> Any:
    """Whether a pixel is the strongest of the three in the direction of its slope."""
    import numpy

    p = numpy.pad(strength, 1)
    angle = numpy.rad2deg(numpy.arctan2(down, across)) % 180
    ridge = numpy.zeros(strength.shape, bool)
    for middle, (y, x) in ((0, (0, 1)), (45, (1, 1)), (90, (1, 0)), (135, (1, -1))):
        here = numpy.abs((angle - middle + 90) % 180 - 90) <= 22.5
        before = p[1 - y : p.shape[0] - 1 - y, 1 - x : p.shape[1] - 1 - x]
        after = p[1 + y : p.shape[0] - 1 + y, 1 + x : p.shape[1] - 1 + x]
        ridge |= here & (strength > before) & (strength >= after)
    return ridge


def _grown(kept: Any) -> Any:
    import numpy

    p = numpy.pad(kept, 1)
    height, width = kept.shape
    grown = numpy.zeros_like(kept)
    for y in range(3):
        for x in range(3):
            grown |= p[y : y + height, x : x + width]
    return grown
