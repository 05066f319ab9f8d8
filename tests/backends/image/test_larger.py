"""Pictures drawn once more and larger, and upscalers."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backends.base import Refused
from backends.events import Done, Progress
from backends.image.upscaling import Upscaler
from tests.backends.image import made_pipelines


@pytest.fixture(scope="module")
def esrgan(_own_models) -> str:
    made_pipelines.esrgan(_own_models / "doppelt.safetensors")
    return "folder:doppelt.safetensors"


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_second_pass_draws_on_from_the_latents_of_the_first(name, made, loaded, draw) -> None:
    import diffusers

    backend = loaded(name)
    kind = type(backend.model.pipe).__name__
    more = {"safety_checker": None} if name == "stable_diffusion" else {}
    pipe = getattr(diffusers, kind).from_pretrained(made(name), **more)
    again = getattr(diffusers, kind.replace("Pipeline", "Img2ImgPipeline"))
    again = again.from_pretrained(made(name), **more)
    for one in (pipe, again):
        one.set_progress_bar_config(disable=True)

    def asked():
        seeds = [torch.Generator().manual_seed(7)]
        return {"prompt": "a cat", "num_inference_steps": 4, "generator": seeds,
                "guidance_scale": 7.5}  # fmt: skip

    first = pipe(**asked(), width=64, height=64, output_type="latent").images
    larger = torch.nn.functional.interpolate(first, (24, 24), mode="bilinear")
    expected = again(**asked(), image=larger, strength=0.5).images[0]
    drawn = draw(backend, enlarge=1.5, enlarge_strength=0.5)
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(expected))
    assert [(p.step, p.total) for p in drawn.of(Progress)] == [(n, 6) for n in range(1, 7)]
    said = json.loads(Image.open(drawn.files[0]).text["werkbank"])
    assert said["enlarge"] == 1.5 and said["enlarge_strength"] == 0.5
    assert (said["width"], said["height"]) == (64, 64) and drawn.pixels[0].shape == (96, 96, 3)


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3"])
def test_families_whose_latents_are_no_beginning_go_through_the_picture(name, loaded, draw) -> None:
    drawn = draw(loaded(name), enlarge=1.5, enlarge_strength=0.5)
    assert drawn.pixels[0].shape == (96, 96, 3) and drawn.of(Done)[0].usage["steps"] == 6


def test_a_family_that_draws_from_text_only_enlarges_and_says_so(loaded, draw) -> None:
    drawn = draw(loaded("sana"), enlarge=2.0)
    assert drawn.pixels[0].shape == (128, 128, 3) and "only enlarged" in drawn.notices


def test_each_picture_of_a_batch_is_enlarged_by_its_own_seed(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    batch, alone = draw(sd, images=2, enlarge=1.5), draw(sd, seed=8, enlarge=1.5)
    assert numpy.array_equal(batch.pixels[1], alone.pixels[0])


def test_what_a_mask_keeps_is_kept_larger_too(loaded, draw, tmp_path) -> None:
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "a.png")
    painted = Image.new("L", (64, 64))
    painted.paste(255, (32, 0, 64, 64))
    painted.save(tmp_path / "mask.png")
    drawn = draw(
        loaded("stable_diffusion"), image=str(tmp_path / "a.png"), mask=str(tmp_path / "mask.png"),
        enlarge=2.0,
    )  # fmt: skip
    assert (drawn.pixels[0][:, :60] == (10, 200, 30)).all()


def test_too_large_is_refused_before_anything_is_drawn(loaded, draw) -> None:
    with pytest.raises(Refused, match=r"Enlarged.*too large"):
        draw(loaded("stable_diffusion"), width=2048, height=2048, enlarge=4.0)


def test_an_upscaler_alone_makes_the_picture_larger(esrgan, loaded, draw, tmp_path) -> None:
    Image.effect_noise((40, 32), 60).convert("RGB").save(tmp_path / "a.png")
    drawn = draw(
        loaded("stable_diffusion"), image=str(tmp_path / "a.png"), strength=0.0, enlarge=2.0,
        enlarge_strength=0.0, upscaler=esrgan, width=40, height=32,
    )  # fmt: skip
    expected = Upscaler(esrgan, "cpu").enlarged(Image.open(tmp_path / "a.png"))
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(expected))
    assert drawn.of(Done)[0].usage["steps"] == 0


def test_an_upscaler_is_used_in_the_second_pass(esrgan, loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    plain, with_it = draw(sd, enlarge=2.0), draw(sd, enlarge=2.0, upscaler=esrgan)
    assert with_it.pixels[0].shape == (128, 128, 3)
    assert not numpy.array_equal(plain.pixels[0], with_it.pixels[0])


def test_tiles_leave_no_seam(esrgan, monkeypatch) -> None:
    picture = Image.effect_noise((90, 70), 60).convert("RGB")
    upscaler = Upscaler(esrgan, "cpu")
    whole = numpy.asarray(upscaler.enlarged(picture)).astype(int)
    monkeypatch.setattr("backends.image.upscaling.TILE", 32)
    tiled = numpy.asarray(upscaler.enlarged(picture)).astype(int)
    assert whole.shape == (140, 180, 3) and numpy.abs(whole - tiled).max() <= 1


def test_what_is_no_upscaler_is_refused(loaded, draw, _own_models) -> None:
    save_file({"x": torch.zeros(1)}, _own_models / "kein.safetensors")
    with pytest.raises(Refused, match="no upscaler"):
        draw(loaded("stable_diffusion"), enlarge=2.0, upscaler="folder:kein.safetensors")
    (_own_models / "alt.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(Refused, match="only safetensors|Python pickle"):
        draw(loaded("stable_diffusion"), enlarge=2.0, upscaler="folder:alt.pth")
