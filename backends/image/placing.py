"""Which part of a pipeline lies on the GPU, and when. On a CPU all of them stay where they are.

none    everything on the GPU
words   text encoders only while they read
model   the same, and the network only while it takes steps; the VAE always
group   the network's blocks come one after the other; the rest as in "model"
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backends.card.fit_media import TILE_SIDE, VAE_BYTES, PicturePlan, predict_way
from backends.card.source import Source
from backends.image.families import Family

WAYS = ("none", "words", "model", "group")
IN_WORDS = {
    "none": "",
    "words": "The text encoder is on the GPU only while it reads, so that pictures have its room.",
    "model": "The text encoder and the network take turns on the GPU, since both do not fit at "
    "once. Each picture takes a second or two longer.",
    "group": "The network's blocks come to the GPU one after the other, since it does not fit as "
    "a whole. That is several times slower.",
}


def choose(source: Source, quantisation: str, side: int, room: int) -> str:
    """The first way whose predicted peak fits into `room` bytes of the GPU. A VAE that lacks room
    for a whole picture works in tiles, which is not worth moving anything for."""
    if not source.parts:  # a single file, whose parts are not told
        return "words"
    plan = PicturePlan(side, side, quantisation=quantisation, tiles=True)
    found = (way for way in WAYS if predict_way(source, plan, way).total <= room)
    return next(found, "group")


def room() -> int:
    """Bytes of the GPU that this process may have: what is free, and no more than was granted."""
    import torch

    free, total = torch.cuda.mem_get_info()
    granted = int(total * torch.cuda.get_per_process_memory_fraction())
    return int(min(free + torch.cuda.memory_reserved(), granted))


def wants_tiles(vae: Any, width: int, height: int) -> bool:
    """Whether there is no room to decode a picture of that size as a whole."""
    import torch

    number = 4 if vae.config.get("force_upcast") else vae.dtype.itemsize
    blocks = vae.config.get("block_out_channels") or [128]
    need = width * height * VAE_BYTES * number * blocks[0] // 128
    return bool(need > room() - torch.cuda.memory_allocated())


def tile(vae: Any) -> None:
    """Let it work piece by piece, where it can."""
    if not hasattr(vae, "enable_tiling"):
        return
    vae.enable_tiling()
    side = getattr(vae, "tile_sample_min_size", 0)
    if side > TILE_SIDE:  # SDXL's is as large as its pictures
        vae.tile_latent_min_size = vae.tile_latent_min_size * TILE_SIDE // side
        vae.tile_sample_min_size = TILE_SIDE


@dataclass
class Places:
    """Where the parts of one pipeline are. `encoders` and `network` bring what they are named
    after to the device for as long as they last."""

    pipe: Any
    family: Family
    device: str
    way: str = "none"

    def __post_init__(self) -> None:
        # A CPU gains nothing from several at once, and computes each a little differently then.
        self.at_once = self.device != "cpu"

    def settle(self) -> None:
        """Everything to where it waits. Called once after the load, and when the way changes."""
        if self.device == "cpu":
            return
        for name, part in self.modules():
            if name == self.family.backbone and self.way == "group":
                self._in_groups(part)
            else:
                part.to("cpu" if name in self._away() else self.device)
        self._empty()

    def modules(self) -> Iterator[tuple[str, Any]]:
        import torch

        for name, part in self.pipe.components.items():
            if isinstance(part, torch.nn.Module):
                yield name, part

    def _away(self) -> tuple[str, ...]:
        """What waits in RAM."""
        moved = {"none": (), "words": self.family.encoders}
        return moved.get(self.way, (*self.family.encoders, self.family.backbone))

    @contextlib.contextmanager
    def encoders(self) -> Iterator[None]:
        with self._here(self.family.encoders):
            yield

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        with self._here(() if self.way == "group" else (self.family.backbone,)):
            yield

    @contextlib.contextmanager
    def _here(self, names: tuple[str, ...]) -> Iterator[None]:
        away = self._away() if self.device != "cpu" else ()
        parts = [part for name, part in self.modules() if name in names and name in away]
        for part in parts:
            part.to(self.device)
        try:
            yield
        finally:
            for part in parts:
                part.to("cpu")
            if parts:
                self._empty()

    def _in_groups(self, part: Any) -> None:
        import torch
        from diffusers.hooks import apply_group_offloading

        apply_group_offloading(
            part,
            onload_device=torch.device(self.device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=True,
        )

    def _empty(self) -> None:
        import torch

        if self.device != "cpu":
            torch.cuda.empty_cache()
