"""What one run of an image backend takes: a prompt, maybe a picture to begin with, one batch.

Counts, grids and retries are the page's business: it asks for one batch after another.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.adapter_use import AdapterUse, check_adapters
from backends.params import Params, setting

MOST_PIXELS = 4096 * 4096  # of one batch, all its pictures together
SIDE = 8  # pixels: what the latents of every family divide by
# By their usual names; backends/image/schedulers.py knows what they are.
SCHEDULERS = (
    "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ SDE", "DPM++ SDE Karras",
    "DPM++ 2M SDE", "DPM++ 2M SDE Karras", "DDIM", "DDPM", "UniPC", "LMS", "LMS Karras", "Heun",
    "DPM2", "DPM2 a", "PNDM", "DEIS", "LCM", "TCD",
)  # fmt: skip


@dataclass(frozen=True)
class ControlUse(Params):
    """A picture that steers the drawing (ControlNet). `image` is a path, made by the page."""

    ref: str = setting("", "ControlNet")  # a ModelRef as text
    image: str = setting("", "Picture")
    kind: str = setting(
        "canny", "What is taken from it",
        choices=(("canny", "Edges (Canny)"), ("depth", "Depth"), ("pose", "Pose"),
                 ("as_is", "It is prepared already")),
    )  # fmt: skip
    weight: float = setting(1.0, "Weight", min=0.0, max=2.0, step=0.05)
    start: float = setting(0.0, "From", min=0.0, max=1.0, step=0.05)
    end: float = setting(1.0, "Until", min=0.0, max=1.0, step=0.05)


@dataclass(frozen=True)
class ImageParams(Params):
    """One batch of pictures.

    Files come as paths that the page has made, never as the browser sent them: `image` to begin
    with, `mask` (white is drawn anew), `controls`. Pictures are written as
    FOLDER/NAME-1.png and so on, each whole or not at all.
    """

    prompt: str = setting("", "Prompt", lines=3, help="What is to be seen. (word:1.3) counts more.")
    negative: str = setting("", "Negative prompt", lines=2, help="What is not to be seen.")
    steps: int = setting(20, "Steps", min=1, max=150, help="More is slower and finer.")
    guidance: float = setting(
        7.5, "Guidance scale", min=0.0, max=30.0, step=0.1,
        help="How closely the prompt is followed. 1 and less: the negative prompt is not used.",
    )  # fmt: skip
    width: int = setting(512, "Width", min=32, max=4096, step=SIDE, unit="px")
    height: int = setting(512, "Height", min=32, max=4096, step=SIDE, unit="px")
    seed: int = setting(
        -1, "Seed", min=-1, max=2**32 - 1,
        help="The same seed draws the same picture again. -1 takes a new one.",
    )  # fmt: skip
    images: int = setting(
        1,
        "Pictures at once",
        min=1,
        max=16,
        help="Each takes memory. Their seeds follow each other.",
    )
    scheduler: str = setting(
        "", "Scheduler", advanced=True, choices=(("", "the model's own"), *SCHEDULERS),
        help="How the noise is taken away, step by step.",
    )  # fmt: skip
    strength: float = setting(
        0.6, "Change", min=0.0, max=1.0, step=0.01, hidden=True,
        help="How far a picture to begin with is drawn anew. 1: wholly.",
    )  # fmt: skip
    image: str = setting("", "Picture to begin with", hidden=True)
    mask: str = setting("", "Mask", hidden=True)
    extend: tuple[int, ...] = setting(
        (), "Extend", hidden=True, help="Pixels to add left, above, right and below (outpaint)."
    )
    controls: tuple[ControlUse, ...] = setting((), "ControlNets", hidden=True)
    adapters: tuple[AdapterUse, ...] = setting((), "Adapters", hidden=True)
    embeddings: tuple[str, ...] = setting(
        (), "Textual inversions", hidden=True, help="References; each is used by its file's name."
    )
    variation_seed: int = setting(
        -1, "Variation seed", min=-1, max=2**32 - 1, advanced=True, help="-1 takes a new one."
    )
    variation: float = setting(
        0.0, "Variation", min=0.0, max=1.0, step=0.01, advanced=True,
        help="How much of the variation seed's noise is mixed in. 0: none.",
    )  # fmt: skip
    clip_skip: int = setting(
        0, "CLIP layers left out", min=0, max=8, advanced=True,
        help="Some models are made for 1. 0: none.",
    )  # fmt: skip
    enlarge: float = setting(
        1.0, "Enlarge", min=1.0, max=4.0, step=0.25, advanced=True,
        help="Drawn once more at this many times the size (hires pass). 1: off.",
    )  # fmt: skip
    enlarge_strength: float = setting(
        0.5, "Change while enlarging", min=0.0, max=1.0, step=0.01, advanced=True
    )
    upscaler: str = setting("", "Upscaler", hidden=True)  # a ModelRef as text; "": by the latents
    preview_every: int = setting(0, "Preview every", min=0, max=150, hidden=True, unit="steps")
    folder: str = setting("", "Folder", hidden=True)
    name: str = setting("picture", "Name of the files", hidden=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_adapters(self.adapters)
        for side in ("width", "height"):
            value = getattr(self, side)
            if value % SIDE:
                raise ValueError(
                    f"The {side} is {value} pixels. Choose a multiple of {SIDE}, such as "
                    f"{max(SIDE, round(value / SIDE) * SIDE)}."
                )
        if self.width * self.height * self.images > MOST_PIXELS:
            raise ValueError(
                f"{self.images} pictures of {self.width} x {self.height} are too many pixels at "
                "once. Take fewer, or smaller ones."
            )
        if self.mask and not self.image:
            raise ValueError("There is a mask and no picture. Choose a picture to begin with.")
        if self.extend and (len(self.extend) != 4 or min(self.extend) < 0 or not self.image):
            raise ValueError(
                "Extending needs a picture, and four numbers of pixels. Choose a picture first."
            )
