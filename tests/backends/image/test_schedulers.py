"""Schedulers by name, and what stays of the model's own."""

from __future__ import annotations

import json

import numpy
import pytest
from PIL import Image

from backends.base import Refused
from backends.image import schedulers
from backends.image.families import FAMILIES, find
from tests.backends.image import made_pipelines
from tests.backends.image.test_text_to_image import bare


@pytest.mark.parametrize("name", find("sd").schedulers)
def test_every_scheduler_draws_something_of_its_own(name, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), scheduler=name)
    assert drawn.pixels[0].std() > 1
    assert json.loads(Image.open(drawn.files[0]).text["werkbank"])["scheduler"] == name


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [("Euler a", "EulerAncestralDiscreteScheduler", {}),
     ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
     ("LMS", "LMSDiscreteScheduler", {})],
)  # fmt: skip
def test_a_name_means_the_scheduler_that_everybody_means(
    name, kind, more, made, loaded, draw
) -> None:
    import diffusers
    import torch

    folder = made("stable_diffusion")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **more)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a cat", num_inference_steps=4, width=64, height=64,
        generator=[torch.Generator().manual_seed(7)],
    ).images[0]  # fmt: skip
    drawn = draw(loaded("stable_diffusion"), scheduler=name)
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(expected))


def test_without_a_name_it_is_the_models_own_and_the_recipe_says_which(made, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"))
    assert numpy.array_equal(drawn.pixels[0], bare(made("stable_diffusion")))
    assert json.loads(Image.open(drawn.files[0]).text["werkbank"])["scheduler"] == "DDIM"


def test_what_the_model_was_trained_with_stays() -> None:
    own = made_pipelines.scheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    made, said = schedulers.make("Euler", own, find("sd"))
    assert said == "" and made.config.prediction_type == "v_prediction"
    assert made.config.rescale_betas_zero_snr and made.config.timestep_spacing == "trailing"


def test_a_scheduler_that_does_not_know_it_is_used_with_a_warning() -> None:
    own = made_pipelines.scheduler(rescale_betas_zero_snr=True)
    _, said = schedulers.make("LMS", own, find("sd"))
    assert "zero terminal signal-to-noise" in said and said.endswith(".")


def test_a_model_of_a_flow_keeps_its_flow() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler, _ = schedulers.make("Euler", own, find("sana"))
    assert type(euler) is FlowMatchEulerDiscreteScheduler and euler.config.shift == 3.0
    solver, _ = schedulers.make("DPM++ 2M", own, find("sana"))
    assert solver.config.use_flow_sigmas and solver.config.flow_shift == 3.0
    assert solver.config.prediction_type == "flow_prediction"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"no scheduler 'Quick'.*Euler a"):
        schedulers.make("Quick", made_pipelines.scheduler(), find("sd"))


def test_every_name_of_every_family_is_in_the_table() -> None:
    assert {n for row in FAMILIES for n in row.schedulers} <= {*schedulers.TABLE, *schedulers.FLOW}
    assert all(row.schedulers for row in FAMILIES)
