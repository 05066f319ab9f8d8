"""What an image model is made for: its size, and what the catalogue says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.image.params import SIDE
from backends.models import library
from backends.models.library import Listed

NETWORKS = ("unet", "transformer")
NATIVE = (32, 2048)  # pixels: a config that says something else is not believed


def usual(listed: Listed | None) -> dict[str, Any]:
    """What the form shows for a model: the catalogue's settings, and the size it was made for."""
    if listed is None:
        return {}
    side = native_side(listed)
    size = {"width": side, "height": side} if side else {}
    return {**size, **listed.settings}


def native_side(listed: Listed) -> int:
    """Pixels of the pictures that a model learned from; 0 where it does not say."""
    try:
        folder = library.locate(listed.ref)
    except Refused:
        return 0
    latents = next((n for name in NETWORKS if (n := _config(folder / name).get("sample_size"))), 0)
    levels = _config(folder / "vae").get("block_out_channels")
    shrink = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else 1
    side = latents * shrink if isinstance(latents, int) else 0
    low, high = NATIVE
    return side // SIDE * SIDE if low <= side <= high else 0


def _config(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
