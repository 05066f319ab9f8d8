"""What a picture leaves behind for the next; variations with schedulers that draw in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from backends.base import ModelRef
from backends.image import families
from backends.image.diffusers_image import DiffusersImage
from backends.image.latents import Decoder
from backends.image.options import ImageOptions
from tests.backends.image import made_pipelines


@pytest.fixture(scope="module")
def own(made: Callable[[str], Path]) -> DiffusersImage:
    """A model of these tests alone: what is drawn with leaves its scheduler in the pipeline."""
    made("stable_diffusion")
    backend = DiffusersImage()
    backend.load(ModelRef("folder", "stable_diffusion"), ImageOptions(device="cpu"))
    return backend


@pytest.mark.parametrize("upcast", [True, False])
def test_after_a_picture_the_vae_is_in_its_own_type_again(upcast: bool) -> None:
    vae = made_pipelines.vae(**({"force_upcast": True} if upcast else {})).to(torch.bfloat16)
    decoder = Decoder(vae, families.find("sd"))
    seen: list[Any] = []
    decode = vae.decode
    vae.decode = lambda *args, **more: (seen.append(vae.dtype), decode(*args, **more))[1]
    decoder.picture(torch.zeros(1, 4, 8, 8))
    assert vae.dtype == torch.bfloat16 and seen[0] == torch.bfloat16
    vae.to(torch.float16)
    assert decoder._needs_32_bits() is upcast  # the class's own default counts for nothing
    if upcast:
        decoder.picture(torch.zeros(1, 4, 8, 8))
        assert vae.dtype == torch.float16 and seen[-1] == torch.float32


@pytest.mark.parametrize("scheduler", ["Euler a", "DDPM", "DDIM"])
def test_a_small_variation_is_a_small_change_with_every_scheduler(
    own: DiffusersImage, draw: Any, scheduler: str
) -> None:
    plain, varied = (
        draw(own, seed=1, scheduler=scheduler, variation=share, variation_seed=2).pixels[0]
        for share in (0.0, 0.001)
    )
    apart = numpy.abs(plain.astype(int) - varied.astype(int)).mean()
    assert apart < 2


def test_several_begun_from_a_picture_differ_though_a_variation_is_set(
    own: DiffusersImage, draw: Any, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    drawn = draw(own, image=str(tmp_path / "a.png"), images=2,
                 variation=0.5, variation_seed=1)  # fmt: skip
    assert (drawn.pixels[0] != drawn.pixels[1]).any()
