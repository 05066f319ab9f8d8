"""Upscalers (ESRGAN and its kin) through spandrel: safetensors only, in tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Refused
from backends.image.loras import weights_file

if TYPE_CHECKING:
    from PIL.Image import Image

TILE, SEAM = 512, 16  # px of the picture that comes in: at once, and what tiles have in common


class Upscaler:
    """One network that makes a picture `scale` times as large."""

    def __init__(self, ref: str, device: str) -> None:
        import spandrel
        from safetensors.torch import load_file

        self.file: Path = weights_file(ref)
        try:
            found = spandrel.ModelLoader().load_from_state_dict(load_file(self.file))
        except (spandrel.UnsupportedModelError, ValueError, KeyError, RuntimeError) as error:
            raise Refused(
                f"{self.file.name} is no upscaler of a kind that is known here.",
                "Take an ESRGAN, SwinIR or similar one as safetensors.",
                str(error),
            ) from error
        if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != 3:
            raise Refused(f"{self.file.name} does not make pictures larger.", "Take an upscaler.")
        self.network = found.to(device).eval()
        self.scale, self.device = int(found.scale), device

    def enlarged(self, picture: Image) -> Image:
        """The whole picture, tile by tile."""
        import numpy
        import torch
        from PIL import Image

        values = torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
        height, width = values.shape[2:]
        made = torch.zeros(3, height * self.scale, width * self.scale)
        with torch.no_grad():
            for top in range(0, height, TILE):
                for left in range(0, width, TILE):
                    self._tile(values, made, top, left)
        whole = (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return Image.fromarray(whole)

    def _tile(self, values: Any, made: Any, top: int, left: int) -> None:
        """One tile with what lies around it, of which only the tile itself is kept."""
        height, width = values.shape[2:]
        bottom, right = min(height, top + TILE), min(width, left + TILE)
        y, x = max(0, top - SEAM), max(0, left - SEAM)
        part = values[:, :, y : min(height, bottom + SEAM), x : min(width, right + SEAM)]
        large = self.network(part.to(self.device)).float().cpu()[0]
        s = self.scale
        made[:, top * s : bottom * s, left * s : right * s] = large[
            :, (top - y) * s : (bottom - y) * s, (left - x) * s : (right - x) * s
        ]
