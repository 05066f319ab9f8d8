"""Pictures from a picture: changed, painted over, extended."""

from __future__ import annotations

import json

import numpy
import pytest
from PIL import Image

from backends.base import Refused
from backends.events import Done, Progress


@pytest.fixture
def picture(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 255, (8, 8, 3), "uint8")
    file = tmp_path / "von hier.png"
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture
def mask(tmp_path):
    """The right half is drawn anew."""
    file = tmp_path / "Maske.png"
    painted = Image.new("L", (64, 64))
    painted.paste(255, (32, 0, 64, 64))
    painted.save(file)
    return file


def bare(folder, kind, sdxl=False, **asked):
    import diffusers
    import torch

    more = {} if sdxl else {"safety_checker": None}
    pipe = getattr(diffusers, kind).from_pretrained(folder, **more)
    pipe.set_progress_bar_config(disable=True)
    plain = {"prompt": "a cat", "num_inference_steps": 4, "guidance_scale": 7.5,
             "generator": [torch.Generator().manual_seed(7)]}  # fmt: skip
    return numpy.asarray(pipe(**plain | asked).images[0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("stable_diffusion", "StableDiffusionImg2ImgPipeline"),
     ("stable_diffusion_xl", "StableDiffusionXLImg2ImgPipeline")],
)  # fmt: skip
def test_the_pixels_are_those_of_the_bare_pipeline(name, kind, picture, made, loaded, draw) -> None:
    drawn = draw(loaded(name), image=str(picture), strength=0.5)
    expected = bare(made(name), kind, "XL" in kind, image=Image.open(picture), strength=0.5)
    assert numpy.array_equal(drawn.pixels[0], expected)
    assert [p.step for p in drawn.of(Progress)] == [1, 2]
    said = json.loads(Image.open(drawn.files[0]).text["werkbank"])
    assert said["kind"] == "image" and said["strength"] == 0.5


def test_several_at_once_begin_each_with_its_own_noise(picture, loaded, draw, monkeypatch) -> None:
    sd = loaded("stable_diffusion")
    for asked in ({}, {"image": str(picture), "strength": 0.5}):
        alone = draw(sd, seed=8, **asked)
        with monkeypatch.context() as patch:
            patch.setattr(sd.model.places, "at_once", True)
            batch = draw(sd, images=2, **asked)
        assert batch.of(Progress)[-1].total == alone.of(Progress)[-1].total  # one pass
        # Products of other shapes are summed in another order.
        assert numpy.abs(batch.pixels[1].astype(int) - alone.pixels[0]).max() <= 1


def test_no_change_gives_the_picture_itself(picture, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), image=str(picture), strength=0.0)
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(Image.open(picture)))
    assert drawn.of(Done)[0].usage["steps"] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [("stable_diffusion", "StableDiffusionInpaintPipeline"),
     ("stable_diffusion_xl", "StableDiffusionXLInpaintPipeline")],
)  # fmt: skip
def test_a_mask_draws_anew_what_is_white_and_keeps_the_rest_to_the_bit(
    name, kind, picture, mask, made, loaded, draw
) -> None:
    drawn = draw(loaded(name), image=str(picture), mask=str(mask), strength=0.8)
    expected = bare(
        made(name), kind, "XL" in kind, image=Image.open(picture), mask_image=Image.open(mask),
        strength=0.8, width=64, height=64,
    )  # fmt: skip
    old = numpy.asarray(Image.open(picture))
    assert numpy.array_equal(drawn.pixels[0][:, 32:], expected[:, 32:])
    assert numpy.array_equal(drawn.pixels[0][:, :32], old[:, :32])
    assert not numpy.array_equal(drawn.pixels[0][:, 32:], old[:, 32:])
    assert json.loads(Image.open(drawn.files[0]).text["werkbank"])["kind"] == "inpaint"


def test_an_extended_picture_is_larger_and_the_old_one_stays(picture, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), image=str(picture), extend=[0, 0, 32, 0], strength=1.0)
    old = numpy.asarray(Image.open(picture))
    made = drawn.pixels[0]
    assert made.shape == (64, 96, 3)
    assert numpy.array_equal(made[:, :56], old[:, :56])
    assert made[:, 64:].std() > 1
    said = json.loads(Image.open(drawn.files[0]).text["werkbank"])
    assert said["kind"] == "outpaint" and (said["width"], said["height"]) == (96, 64)


def test_a_picture_of_another_shape_is_cut_and_that_is_said(picture, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), image=str(picture), width=32, height=64)
    assert drawn.pixels[0].shape == (64, 32, 3) and "cut evenly" in drawn.notices


def test_a_broken_picture_is_refused_before_anything_is_drawn(tmp_path, loaded, draw) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Refused, match="damaged|not a picture"):
        draw(loaded("stable_diffusion"), image=str(tmp_path / "a.png"))


def test_a_variation_of_a_picture_is_left_out_and_said(picture, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), image=str(picture), variation=0.5, variation_seed=1)
    assert "Variations are of pictures from text" in drawn.notices
