"""Which part of a pipeline lies on the GPU, and when. On a CPU all of them stay where they are.

none    everything on the GPU
model   text encoders while they read, the network while it takes steps; the VAE always
group   the network's blocks come one after the other; the rest as in "model"
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backends.card.fit_media import PicturePlan, predict_pictures
from backends.card.source import Source
from backends.image.families import Family

WAYS = ("none", "model", "group")
IN_WORDS = {
    "none": "",
    "model": "The text encoder and the network take turns on the GPU, since both do not fit at "
    "once. Each picture takes a second or two longer.",
    "group": "The network's blocks come to the GPU one after the other, since it does not fit as "
    "a whole. That is several times slower.",
}


def choose(source: Source, family: Family, quantisation: str, side: int, room: int) -> str:
    """The first way whose predicted peak fits into `room` bytes of the GPU."""
    bits = "nf4" if quantisation == "nf4" else "fp32" if quantisation == "fp32" else "fp16"
    names = [name for name, _ in source.parts]
    small = tuple(n for n in names if n not in (*family.encoders, family.backbone, "bert"))
    turns = (family.backbone, *small)
    for way, resident in (("none", ()), ("model", turns)):
        plan = PicturePlan(side, side, quantisation=bits, resident=resident)
        reading = PicturePlan(side, side, quantisation=bits, resident=(*family.encoders, *small))
        need = predict_pictures(source, plan).total
        if way == "model":
            need = max(need, predict_pictures(source, reading).held)
        if need <= room:
            return way
    return "group"


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
        away = (*self.family.encoders, self.family.backbone) if self.way != "none" else ()
        for name, part in self.modules():
            if name == self.family.backbone and self.way == "group":
                self._in_groups(part)
            else:
                part.to("cpu" if name in away else self.device)
        self._empty()

    def modules(self) -> Iterator[tuple[str, Any]]:
        import torch

        for name, part in self.pipe.components.items():
            if isinstance(part, torch.nn.Module):
                yield name, part

    @contextlib.contextmanager
    def encoders(self) -> Iterator[None]:
        with self._here(self.family.encoders):
            yield

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        with self._here((self.family.backbone,) if self.way == "model" else ()):
            yield

    @contextlib.contextmanager
    def _here(self, names: tuple[str, ...]) -> Iterator[None]:
        moved = self.device != "cpu" and self.way != "none"
        parts = [part for name, part in self.modules() if moved and name in names]
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
