"""ControlNets, and the edges that Canny finds."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from PIL import Image, ImageDraw

from backends.base import Refused
from backends.image.edges import canny
from tests.backends.image import made_pipelines


@pytest.fixture
def square(tmp_path):
    picture = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(picture).rectangle((16, 16, 47, 47), fill="white")
    picture.save(tmp_path / "Quadrat.png")
    return tmp_path / "Quadrat.png"


def steer(file, name="controlnet", **more):
    return {"ref": f"folder:{name}", "image": str(file), "kind": "as_is"} | more


@pytest.mark.parametrize(("begun", "kind"), [("text", ""), ("image", "Img2Img")])
def test_the_pixels_are_those_of_diffusers_own_pipeline(
    begun, kind, square, made, loaded, draw
) -> None:
    import diffusers

    net = diffusers.ControlNetModel.from_pretrained(made("controlnet"))
    cls = getattr(diffusers, f"StableDiffusionControlNet{kind}Pipeline")
    pipe = cls.from_pretrained(made("stable_diffusion"), controlnet=net, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    picture = Image.open(square)
    given = {"image": picture, "width": 64, "height": 64}
    if begun == "image":
        given = {"image": picture, "control_image": picture, "strength": 0.5}
    expected = pipe(
        "a cat", num_inference_steps=4, guidance_scale=7.5, controlnet_conditioning_scale=0.8,
        generator=[torch.Generator().manual_seed(7)], **given,
    ).images[0]  # fmt: skip
    asked = {"image": str(square), "strength": 0.5} if begun == "image" else {}
    drawn = draw(loaded("stable_diffusion"), controls=[steer(square, weight=0.8)], **asked)
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(expected))
    plain = draw(loaded("stable_diffusion"), **asked).pixels[0]
    assert not numpy.array_equal(drawn.pixels[0], plain)


def test_edges_are_computed_here(square, made, loaded, draw, tmp_path) -> None:
    made("controlnet")
    sd = loaded("stable_diffusion")
    canny(Image.open(square)).save(tmp_path / "Kanten.png")
    computed = draw(sd, controls=[steer(square, kind="canny")])
    prepared = draw(sd, controls=[steer(tmp_path / "Kanten.png")])
    assert numpy.array_equal(computed.pixels[0], prepared.pixels[0])


def test_the_recipe_names_it_and_parking_lets_it_go(square, made, loaded, draw) -> None:
    made("controlnet")
    sd = loaded("stable_diffusion")
    drawn = draw(sd, controls=[steer(square, weight=0.8)])
    said = json.loads(Image.open(drawn.files[0]).text["werkbank"])["controls"]
    assert said[0]["ref"] == "folder:controlnet" and said[0]["weight"] == 0.8
    assert "image" not in said[0] and len(sd.model.controls.kept) == 1
    sd.park()
    assert sd.model.controls.kept == {}
    sd.unpark()


def test_two_and_a_mask_and_a_second_pass_work_together(
    square, made, loaded, draw, monkeypatch
) -> None:
    made("controlnet")
    sd = loaded("stable_diffusion")
    monkeypatch.setattr(sd.model.places, "at_once", True)
    drawn = draw(
        sd, images=2, image=str(square), mask=str(square), enlarge=1.5,
        controls=[steer(square), steer(square, kind="canny", weight=0.3)],
    )  # fmt: skip
    assert [one.shape for one in drawn.pixels] == [(96, 96, 3)] * 2


@pytest.mark.parametrize("kind", ["depth", "pose"])
def test_depth_and_pose_are_said_not_to_be_computed_here(kind, square, loaded, draw) -> None:
    with pytest.raises(Refused, match=r"not computed here.*prepared already"):
        draw(loaded("stable_diffusion"), controls=[steer(square, kind=kind)])


def test_one_for_another_model_is_named_and_refused(square, loaded, draw, _own_models) -> None:
    made_pipelines.controlnet(_own_models / "für-andere", reads=48)
    from backends.models.library import name_id

    with pytest.raises(Refused, match=r"made for another kind of model than stable_diffusion"):
        draw(loaded("stable_diffusion"), controls=[steer(square, name_id("für-andere"))])


def test_what_is_no_controlnet_is_refused(square, loaded, draw, made) -> None:
    made("stable_diffusion")
    with pytest.raises(Refused, match="is not a ControlNet"):
        draw(loaded("stable_diffusion"), controls=[steer(square, "stable_diffusion")])
    with pytest.raises(Refused, match="Sana takes no ControlNets"):
        draw(loaded("sana"), controls=[steer(square)])


def test_canny_finds_thin_closed_lines_where_brightness_changes(square) -> None:
    lines = numpy.asarray(canny(Image.open(square)))[:, :, 0] > 0
    rows, columns = numpy.nonzero(lines)
    assert {rows.min(), columns.min()} <= {14, 15, 16} and rows.max() in (46, 47, 48)
    assert lines[32].sum() == 2 and lines[:, 32].sum() == 2  # one pixel wide, at both sides
    assert not lines[24:40, 24:40].any() and not lines[:10].any()
    assert not numpy.asarray(canny(Image.new("RGB", (32, 32), "grey"))).any()


def test_a_weak_edge_counts_only_beside_a_strong_one() -> None:
    grey = numpy.zeros((60, 80), "uint8")
    grey[:, 10:30] = 45  # weak, alone
    grey[:, 50:] = numpy.linspace(200, 50, 60)[:, None]  # strong above, weaker and weaker below
    lines = numpy.asarray(canny(Image.fromarray(grey).convert("RGB")))[:, :, 0] > 0
    assert not lines[:, 5:35].any() and lines[5, 45:55].any() and lines[55, 45:55].any()
