"""A prompt becomes pictures: the pipeline's own, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from backends.base import Refused
from backends.events import Artifact, Done, Item, Notice, Progress
from backends.image.params import ImageParams
from backends.params import read


def bare(folder, kind="StableDiffusionPipeline", seed=7, **asked):
    """The pixels of diffusers' own pipeline, in this process."""
    import diffusers
    import torch

    more = {"safety_checker": None} if kind == "StableDiffusionPipeline" else {}
    pipe = getattr(diffusers, kind).from_pretrained(folder, **more)
    pipe.set_progress_bar_config(disable=True)
    plain = {"prompt": "a cat", "num_inference_steps": 4, "width": 64, "height": 64,
             "generator": [torch.Generator().manual_seed(seed)], "guidance_scale": 7.5}  # fmt: skip
    return numpy.asarray(pipe(**plain | asked).images[0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("stable_diffusion", "StableDiffusionPipeline"),
     ("stable_diffusion_xl", "StableDiffusionXLPipeline")],
)  # fmt: skip
def test_the_pixels_are_those_of_the_bare_pipeline(name, kind, made, loaded, draw) -> None:
    drawn = draw(loaded(name), negative="a dog")
    expected = bare(made(name), kind, negative_prompt="a dog")
    assert numpy.array_equal(drawn.pixels[0], expected)
    assert expected.std() > 1  # not one colour


def test_the_same_seed_gives_an_identical_file_and_another_one_another(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    first, again, other = (draw(sd, seed=seed) for seed in (7, 7, 8))
    assert first.files[0].read_bytes() == again.files[0].read_bytes()
    assert not numpy.array_equal(first.pixels[0], other.pixels[0])


def test_a_picture_of_a_batch_is_the_same_as_alone(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    batch, alone = draw(sd, images=3), draw(sd, seed=9)
    assert [item.data["seed"] for item in batch.of(Item)] == [7, 8, 9]
    assert numpy.array_equal(batch.pixels[2], alone.pixels[0])


def test_each_picture_is_told_with_its_seed_and_saved_with_its_recipe(loaded, draw) -> None:
    drawn = draw(
        loaded("stable_diffusion"), images=2, name="katze", negative="x", scheduler="Euler"
    )
    assert [file.name for file in drawn.files] == ["katze-1.png", "katze-2.png"]
    assert drawn.of(Item)[1].data == {"file": "katze-2.png", "seed": 8, "width": 64, "height": 64}
    said = json.loads(Image.open(drawn.files[1]).text["werkbank"])
    assert said["seed"] == 8 and said["scheduler"] == "Euler" and said["negative"] == "x"
    assert said["model"] == "folder:stable_diffusion" and said["kind"] == "text"
    assert "strength" not in said and "variation" not in said


def test_without_a_seed_each_run_draws_another_one_and_says_which(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    first, second = draw(sd, seed=-1), draw(sd, seed=-1)
    seeds = [drawn.of(Done)[0].usage["seed"] for drawn in (first, second)]
    assert seeds[0] != seeds[1] and min(seeds) >= 0
    again = draw(sd, seed=seeds[0])
    assert numpy.array_equal(first.pixels[0], again.pixels[0])


def test_every_step_is_told_and_the_parts_of_a_run_are_timed(loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), steps=5)
    assert [(p.step, p.total) for p in drawn.of(Progress)] == [(n, 5) for n in range(1, 6)]
    usage = drawn.of(Done)[0].usage
    parts = [usage[f"{name}_seconds"] for name in ("text", "denoise", "decode")]
    assert min(parts) > 0 and sum(parts) <= usage["seconds"]
    assert usage["steps"] == 5 and usage["images"] == 1 and not drawn.of(Done)[0].cancelled


def test_the_steps_of_a_batch_are_counted_together(loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), steps=3, images=2)
    assert [p.step for p in drawn.of(Progress)] == [1, 2, 3, 4, 5, 6]
    assert {p.total for p in drawn.of(Progress)} == {6}
    assert drawn.of(Progress)[4].note == "picture 2 of 2, step 2 of 3"


def test_a_preview_comes_every_few_steps_as_a_whole_jpeg(loaded, tmp_path) -> None:
    asked = {"prompt": "a cat", "steps": 6, "width": 64, "height": 64, "seed": 1, "images": 2,
             "preview_every": 2, "folder": str(tmp_path)}  # fmt: skip
    seen = []
    for event in loaded("stable_diffusion").run(read(ImageParams, asked)):
        if isinstance(event, Artifact) and event.kind == "preview":
            picture = Image.open(event.path)
            picture.load()
            seen.append((picture.format, picture.size))
    assert seen == [("JPEG", (256, 256))] * 4  # of two pictures; none after the last step
    assert not list(tmp_path.glob("*.partial"))


def test_a_preview_looks_like_the_picture(loaded) -> None:
    """Of a VAE that nobody knows: what it makes of a few latents teaches the look at others."""
    import torch

    model = loaded("stable_diffusion").model
    drawn = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    latents = drawn.repeat_interleave(2, 2).repeat_interleave(2, 3)
    picture, _ = model.decoder.picture(latents)
    look = numpy.asarray(model.preview.picture(latents)).astype(float)
    small = numpy.asarray(picture.resize((16, 16), Image.Resampling.BOX)).astype(float)
    assert numpy.corrcoef(look.ravel(), small.ravel())[0, 1] > 0.5


def test_stop_ends_within_a_step_and_leaves_nothing_torn(loaded, tmp_path) -> None:
    sd = loaded("stable_diffusion")
    asked = {"prompt": "a cat", "steps": 100, "width": 64, "height": 64, "folder": str(tmp_path)}
    events = []
    try:
        for event in sd.run(read(ImageParams, asked)):
            events.append(event)
            if isinstance(event, Progress) and event.step == 3:
                sd.cancelled = lambda: True
    finally:
        del sd.cancelled
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert isinstance(events[-1], Done) and events[-1].cancelled
    assert 3 <= steps[-1] < 30  # the thread is ahead of its listener by little
    assert events[-1].usage["steps"] < 30 and events[-1].usage["images"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_closed_run_has_ended_when_close_returns(loaded, tmp_path) -> None:
    import threading

    asked = {"prompt": "a cat", "steps": 150, "width": 64, "height": 64, "folder": str(tmp_path)}
    events = loaded("stable_diffusion").run(read(ImageParams, asked))
    next(events)
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "work"]
    assert list(tmp_path.iterdir()) == []


def test_a_variation_lies_between_two_seeds(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    plain, other = draw(sd, seed=1).pixels[0], draw(sd, seed=2).pixels[0]
    none, half, whole = (
        draw(sd, seed=1, variation_seed=2, variation=share) for share in (0.0, 0.5, 1.0)
    )
    assert numpy.array_equal(none.pixels[0], plain)
    assert numpy.abs(whole.pixels[0].astype(int) - other.astype(int)).max() <= 1
    assert not numpy.array_equal(half.pixels[0], plain)
    said = json.loads(Image.open(half.files[0]).text["werkbank"])
    assert said["variation"] == 0.5 and said["variation_seed"] == 2


def test_variations_of_a_batch_keep_the_seed_and_count_the_other(loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), images=2, variation=0.3, variation_seed=40)
    said = [json.loads(Image.open(file).text["werkbank"]) for file in drawn.files]
    assert [one["seed"] for one in said] == [7, 7]
    assert [one["variation_seed"] for one in said] == [40, 41]


def test_a_side_that_the_model_cannot_draw_is_refused_with_the_nearest(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    sd.model.pipe.vae_scale_factor = 32
    try:
        with pytest.raises(Refused, match=r"width is 72 pixels.*multiples of 32.*Choose 64"):
            draw(sd, width=72)
    finally:
        sd.model.pipe.vae_scale_factor = 4


def test_a_disk_that_is_full_is_said_with_the_seed(loaded, draw, monkeypatch) -> None:
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backends.image.recipe.save_png", full)
    with pytest.raises(Refused, match=r"No space left.*its seed is 7"):
        draw(loaded("stable_diffusion"))


def test_guidance_of_one_does_without_the_negative_prompt(made, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), guidance=1.0, negative="a dog")
    assert numpy.array_equal(drawn.pixels[0], bare(made("stable_diffusion"), guidance_scale=1.0))
    assert "negative" not in json.loads(Image.open(drawn.files[0]).text["werkbank"])


def test_a_run_needs_a_folder(loaded, draw) -> None:
    with pytest.raises(Refused, match="no folder"):
        draw(loaded("stable_diffusion"), folder="")


def test_the_vae_that_fails_in_16_bits_decodes_again_in_32_and_says_so(loaded, draw) -> None:
    import torch

    decoder = loaded("stable_diffusion").model.decoder
    whole = decoder.vae.decode
    expected = draw(loaded("stable_diffusion")).pixels[0]

    def overflowing(latents, **more):
        (found,) = whole(latents, **more)
        return (found * float("nan") if latents.dtype == torch.bfloat16 else found,)

    decoder.vae.to(torch.bfloat16)
    decoder.vae.decode = overflowing
    try:
        drawn = draw(loaded("stable_diffusion"))
    finally:
        del decoder.vae.decode
        decoder.vae.to(torch.float32)
    assert "once more in 32 bits" in drawn.notices
    # Its weights were rounded on the way.
    assert numpy.abs(drawn.pixels[0].astype(int) - expected).mean() < 4


def test_a_picture_that_is_no_number_is_refused(loaded, draw) -> None:
    decoder = loaded("stable_diffusion").model.decoder
    whole = decoder.vae.decode
    decoder.vae.decode = lambda latents, **more: (whole(latents, **more)[0] * float("nan"),)
    try:
        with pytest.raises(Refused, match="not a number"):
            draw(loaded("stable_diffusion"))
    finally:
        del decoder.vae.decode


def test_parking_is_offered_and_pictures_are_the_same_afterwards(loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    before = draw(sd).pixels[0]
    sd.park()
    assert sd.memory()["parked_bytes"] > 100_000
    sd.unpark()
    assert "parked_bytes" not in sd.memory()
    assert numpy.array_equal(draw(sd).pixels[0], before)


def test_what_goes_wrong_inside_is_raised_where_it_was_asked(loaded, draw, monkeypatch) -> None:
    def broken(*args, **more):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("backends.image.encoding.encode", broken)
    with pytest.raises(ZeroDivisionError, match="inside"):
        draw(loaded("stable_diffusion"))


def test_notices_are_sentences(loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"))
    assert drawn.of(Notice) == [] and isinstance(drawn.files[0], Path)
