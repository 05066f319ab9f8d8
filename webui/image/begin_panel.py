"""A picture to begin with: dropped, pasted or taken from the gallery, painted over, extended."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import Refused
from webui.bench import Bench

SIDES = {  # left, above, right, below
    "": (0, 0, 0, 0), "all": (1, 1, 1, 1), "left": (1, 0, 0, 0), "above": (0, 1, 0, 0),
    "right": (0, 0, 1, 0), "below": (0, 0, 0, 1),
}  # fmt: skip
CHOICES = [("no", ""), ("on all sides", "all"), ("left", "left"), ("above", "above"),
           ("right", "right"), ("below", "below")]  # fmt: skip
STEP = 8  # pixels
CHANGE = 0.6  # how far a picture is drawn anew, where nothing is said
BROKEN = Refused("What was painted cannot be read.", "Paint it again, or drop the picture anew.")


@dataclass(frozen=True)
class BeginPanel:
    fold: Any
    editor: Any
    strength: Any
    extend: Any
    by: Any

    @property
    def inputs(self) -> list[Any]:
        return [self.editor, self.strength, self.extend, self.by]

    def shown(self) -> list[Any]:
        """What `showing` fills."""
        return [self.fold, self.editor]

    def showing(self, path: Path) -> list[Any]:
        """Unfolded, with that picture in it."""
        picture: dict[str, Any] = {"background": str(path), "layers": [], "composite": None}
        return [gr.Accordion(open=True), picture]

    def split(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What belongs to this panel, and the rest."""
        count = len(self.inputs)
        return values[:count], values[count:]

    async def read(self, bench: Bench, values: tuple[Any, ...]) -> dict[str, Any]:
        """The settings of ImageParams that it stands for; {} without a picture. Raises Refused."""
        editor, strength, extend, by = values
        if not editor or not editor.get("background"):
            return {}
        folder = bench.temp / "masks"
        layers = [Path(layer) for layer in editor.get("layers") or ()]
        mask = await asyncio.to_thread(mask_of, layers, folder) if layers else ""
        found: dict[str, Any] = {
            "image": str(editor["background"]), "mask": mask,
            "strength": CHANGE if strength is None else float(strength),
        }  # fmt: skip
        if any(sides := SIDES.get(extend or "", SIDES[""])):
            pixels = max(STEP, int(by or STEP) // STEP * STEP)
            found |= {"extend": [side * pixels for side in sides], "strength": 1.0}
        return found


def build() -> BeginPanel:
    with gr.Accordion("Begin with a picture", open=False, elem_id="image-begin") as fold:
        editor = gr.ImageEditor(
            type="filepath", format="png", image_mode="RGBA", sources=("upload", "clipboard"),
            show_label=False, label="Picture to begin with", elem_id="image-editor", height=340,
            brush=gr.Brush(default_size=24, colors=["#ffffff"], color_mode="fixed"), buttons=[],
            layers=False, transforms=("crop",),
        )  # fmt: skip
        with gr.Row(elem_classes="begin"):
            strength = gr.Slider(
                0.0, 1.0, CHANGE, step=0.01, label="Change", elem_id="image-strength",
                info="How far it is drawn anew. What is painted over is drawn anew alone.",
            )  # fmt: skip
            extend = gr.Dropdown(
                CHOICES, value="", label="Extend it", elem_id="image-extend", min_width=120
            )
            by = gr.Number(
                64, label="by (px)", minimum=STEP, maximum=1024, step=STEP, precision=0,
                elem_id="image-extend-by", min_width=90,
            )  # fmt: skip
    return BeginPanel(fold, editor, strength, extend, by)


def mask_of(layers: list[Path], folder: Path) -> str:
    """One grey picture of what was painted, white for that; "" where nothing was.

    Raises Refused. For a thread.
    """
    from PIL import Image, ImageChops

    painted: Any = None
    try:
        for layer in layers:
            with Image.open(layer, formats=("PNG", "WEBP")) as file:
                alpha = file.convert("RGBA").getchannel("A").point(lambda a: 255 if a > 127 else 0)
            if painted is not None and painted.size != alpha.size:
                alpha = alpha.resize(painted.size)
            painted = alpha if painted is None else ImageChops.lighter(painted, alpha)
        if painted is None or not painted.getextrema()[1]:
            return ""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = folder / f"{secrets.token_hex(8)}.png"
        painted.save(made)
    except (OSError, ValueError, SyntaxError) as error:
        raise BROKEN from error
    return str(made)


def forget(params: dict[str, Any]) -> None:
    """Remove the mask that `BeginPanel.read` made."""
    if mask := params.get("mask"):
        Path(mask).unlink(missing_ok=True)
