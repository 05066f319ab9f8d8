"""What is done where memory is short: said each time, with the same seed and steps."""

from __future__ import annotations

from contextlib import contextmanager

import numpy
import pytest
import torch

from backends.base import ModelRef
from backends.card.fit import Prediction
from backends.card.fit_media import predict_load
from backends.card.plan import LoadPlan
from backends.card.source import Source
from backends.events import Done, Failed
from backends.image import options, placing
from backends.image.diffusers_image import DiffusersImage
from backends.image.families import find
from backends.image.options import ImageOptions
from backends.image.placing import Places, choose


@contextmanager
def too_large(module, name, unless, patch):
    """`module` runs out of memory until `unless` is true."""
    whole = getattr(module, name)

    def short(*args, **more):
        if not unless(*args, **more):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(*args, **more)

    with patch.context() as context:
        context.setattr(module, name, short)
        yield


def test_a_vae_that_is_too_large_works_in_tiles(loaded, draw, monkeypatch) -> None:
    sd = loaded("stable_diffusion")
    vae, expected = sd.model.pipe.vae, draw(sd).pixels[0]
    try:
        with too_large(vae, "decode", lambda *args, **more: vae.use_tiling, monkeypatch):
            drawn = draw(sd)
    finally:
        vae.disable_tiling()
    assert "Memory ran out. The VAE now works in tiles." in drawn.notices
    assert numpy.array_equal(drawn.pixels[0], expected)  # small enough for one tile
    assert drawn.of(Done)[0].usage["steps"] == 4  # nothing was drawn twice


def test_a_batch_that_is_too_large_is_drawn_in_parts_with_the_same_seeds(
    loaded, draw, monkeypatch
) -> None:
    sd = loaded("stable_diffusion")
    expected = draw(sd, images=4)
    monkeypatch.setattr(sd.model.places, "at_once", True)
    small = lambda latents, *args, **more: latents.shape[0] <= 2  # noqa: E731  guidance doubles it
    with too_large(sd.model.pipe.unet, "forward", small, monkeypatch):
        drawn = draw(sd, images=4)
    assert "now drawn 2 at once" in drawn.notices and "now drawn 1 at once" in drawn.notices
    assert [f.name for f in drawn.files] == [f.name for f in expected.files]
    assert all(numpy.array_equal(a, b) for a, b in zip(drawn.pixels, expected.pixels, strict=True))
    assert not isinstance(drawn.events[-1], Failed)


def test_where_nothing_helps_it_fails_in_two_sentences_and_the_next_run_works(
    loaded, draw, monkeypatch
) -> None:
    sd = loaded("stable_diffusion")
    with too_large(sd.model.pipe.unet, "forward", lambda *a, **more: False, monkeypatch):
        failed = draw(sd).events[-1]
    assert isinstance(failed, Failed) and failed.out_of_memory
    assert "too small for a picture of 64 x 64" in failed.message and failed.hint.endswith(".")
    assert draw(sd).pixels[0].std() > 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(loaded, draw, monkeypatch) -> None:
    sd = loaded("stable_diffusion")

    def broken(*args, **more):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(sd.model.pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        draw(sd)


def test_pictures_that_are_done_stay_when_a_later_one_does_not_fit(
    loaded, draw, monkeypatch, tmp_path
) -> None:
    sd = loaded("stable_diffusion")
    calls = iter(range(100))
    first = lambda *args, **more: next(calls) < 4  # noqa: E731
    with too_large(sd.model.pipe.unet, "forward", first, monkeypatch):
        drawn = draw(sd, images=2)
    assert len(drawn.files) == 1 and isinstance(drawn.events[-1], Failed)
    assert drawn.pixels[0].std() > 1


# Which part is where


class Part(torch.nn.Module):
    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log

    def to(self, device):
        self.log.append((self.name, str(device)))
        return self


class Pipe:
    def __init__(self):
        self.log: list[tuple[str, str]] = []
        names = ("text_encoder", "unet", "vae")
        self.components = {name: Part(name, self.log) for name in names} | {"tokenizer": None}


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Pipe()


def test_everything_stays_on_the_gpu_where_it_fits(pipe) -> None:
    places = Places(pipe, find("sd"), "cuda", "none")
    places.settle()
    assert pipe.log == [("text_encoder", "cuda"), ("unet", "cuda"), ("vae", "cuda")]
    with places.encoders(), places.network():
        assert len(pipe.log) == 3


def test_text_encoder_and_network_take_turns(pipe) -> None:
    places = Places(pipe, find("sd"), "cuda", "model")
    places.settle()
    assert pipe.log == [("text_encoder", "cpu"), ("unet", "cpu"), ("vae", "cuda")]
    pipe.log.clear()
    with places.encoders():
        assert pipe.log == [("text_encoder", "cuda")]
    with places.network():
        assert pipe.log[1:] == [("text_encoder", "cpu"), ("unet", "cuda")]
    assert pipe.log[3:] == [("unet", "cpu")]


def test_block_by_block_the_network_never_comes_as_a_whole(pipe, monkeypatch) -> None:
    grouped = []
    monkeypatch.setattr(Places, "_in_groups", lambda self, part: grouped.append(part.name))
    places = Places(pipe, find("sd"), "cuda", "group")
    places.settle()
    assert grouped == ["unet"] and pipe.log == [("text_encoder", "cpu"), ("vae", "cuda")]
    with places.network():
        assert ("unet", "cuda") not in pipe.log


def test_the_text_encoder_waits_in_ram_and_the_network_stays(pipe) -> None:
    places = Places(pipe, find("sd"), "cuda", "words")
    places.settle()
    assert pipe.log == [("text_encoder", "cpu"), ("unet", "cuda"), ("vae", "cuda")]
    pipe.log.clear()
    with places.encoders():
        assert pipe.log == [("text_encoder", "cuda")]
    with places.network():
        assert pipe.log[1:] == [("text_encoder", "cpu")]


def big() -> Source:
    from backends.card.badges import of_figures

    parts = {"unet": 2_567_000_000, "text_encoder": 123_000_000, "text_encoder_2": 695_000_000,
             "vae": 84_000_000}  # fmt: skip
    config = {"first_channels": 320, "vae_channels": 128, "vae_scale": 8, "vae_fp32": 1,
              "width": 1024}  # fmt: skip
    source = of_figures("image", config, sum(parts.values()), parts)
    assert source is not None
    return source


def told(way: str) -> Prediction:
    return predict_load(big(), LoadPlan("diffusers", "fp16", "cuda:0", offload=way))


def test_less_on_the_gpu_takes_less_and_what_is_chosen_is_what_fits() -> None:
    """Of SDXL's shape: 12 GB do without anything that takes long."""
    ways = ("none", "words", "model", "group")
    totals = [told(way).total for way in ways]
    assert totals == sorted(totals, reverse=True) and totals[0] > 13e9
    assert told("auto") == told("words") and 9.5e9 > told("words").total > 7e9
    assert told("group").total < 5e9 and told("model").ram > 1e9
    rooms = (13 * 10**9, 9 * 10**9, totals[2], totals[3])
    picked = [choose(big(), "fp16", 1024, room) for room in rooms]
    assert picked == list(ways) and choose(big(), "fp16", 1024, 10**9) == "group"
    assert all(placing.IN_WORDS[way].endswith(".") for way in ways[1:])


def test_a_vae_works_in_tiles_where_a_whole_picture_has_no_room(monkeypatch) -> None:
    from tests.backends.image import made_pipelines

    vae = made_pipelines.vae(force_upcast=True)
    vae.tile_sample_min_size, vae.tile_latent_min_size = 1024, 128
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 7_000_000_000)
    monkeypatch.setattr(placing, "room", lambda: 8_000_000_000)
    assert placing.wants_tiles(vae, 2048, 2048) and not placing.wants_tiles(vae, 512, 512)
    placing.tile(vae)
    assert vae.use_tiling and (vae.tile_sample_min_size, vae.tile_latent_min_size) == (512, 64)


def test_a_network_that_is_not_packed_is_predicted_in_16_bits() -> None:
    plan = LoadPlan("diffusers", "nf4", "cuda:0")
    half = LoadPlan("diffusers", "fp16", "cuda:0")
    assert predict_load(big(), plan).total == predict_load(big(), half).total


def test_the_forecast_of_the_page_knows_image_models(made, home, monkeypatch) -> None:
    from backends.card.measured import Measured
    from webui.forecast import Forecast

    made("stable_diffusion")
    forecast = Forecast(Measured(home / "measured.jsonl"))
    told = forecast.plain("diffusers", "folder:stable_diffusion", {}, "cpu")
    assert told and told.total > 900_000_000 and told.part("libraries") == 900_000_000
    on_gpu = forecast.plain("diffusers", "folder:stable_diffusion", {}, "cuda:0")
    assert on_gpu and on_gpu.part("weights: unet") > 100_000
    ways = forecast.remedies(
        "diffusers", "folder:stable_diffusion", ImageOptions().__dict__, "cuda:0", 10**12, 10**12
    )
    assert "one part at a time" in " ".join(way.text for way in ways)
    best = forecast.best("diffusers", "folder:stable_diffusion", {}, "cuda:0", 10**12, 10**12)
    assert best is None


def test_options_that_are_automatic_take_less_when_memory_has_run_out() -> None:
    assert options.less_of(ImageOptions(), True)["offload"][0] == "group"
    assert options.less_of(ImageOptions(offload="none"), True) == {}
    assert options.less_of(ImageOptions(), False)["quantisation"][0] == "bf16"


def test_vae_in_tiles_from_the_start_where_that_is_asked(made, draw) -> None:
    made("stable_diffusion")
    backend = DiffusersImage()
    backend.load(ModelRef("folder", "stable_diffusion"), ImageOptions(device="cpu", tiling="on"))
    draw(backend)
    assert backend.model.pipe.vae.use_tiling
    backend.unload()
    assert not hasattr(backend, "model")
