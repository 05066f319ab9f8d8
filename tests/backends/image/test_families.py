"""Every family of the table draws, and what it does not do is said."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from PIL import Image

from backends.base import Refused
from backends.image import opening, recognising
from backends.image.families import FAMILIES, find
from tests.backends.image import made_pipelines

TINY = {"sd": "stable_diffusion", "sdxl": "stable_diffusion_xl", "ldm": "latent_diffusion",
        "sana": "sana", "pixart-sigma": "pixart", "sd3": "stable_diffusion_3",
        "flux": "flux"}  # fmt: skip


@pytest.mark.parametrize("family", [row.id for row in FAMILIES])
def test_the_pixels_are_those_of_the_families_own_pipeline(family, made, loaded, draw) -> None:
    import diffusers

    row, folder = find(family), made(TINY[family])
    pipe = getattr(diffusers, row.index_class).from_pretrained(
        folder, **{k: v for k, v in row.loads.items() if family == "sd"}
    )
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt="a cat", num_inference_steps=3, guidance_scale=4.0, width=64, height=64,
        generator=[torch.Generator().manual_seed(7)], **row.begins,
    ).images[0]  # fmt: skip
    backend = loaded(TINY[family])
    assert backend.model.family is row
    drawn = draw(backend, steps=3, guidance=4.0)
    # Latent Diffusion's own multiplies by 1 / scale where the others divide: the last bit differs.
    most = 1 if family == "ldm" else 0
    assert numpy.abs(drawn.pixels[0].astype(int) - numpy.asarray(expected)).max() <= most
    assert drawn.pixels[0].std() > 0.5
    assert json.loads(Image.open(drawn.files[0]).text["werkbank"])["family"] == family


@pytest.mark.parametrize("family", [row.id for row in FAMILIES if row.can("image")])
def test_families_that_can_begin_with_a_picture_do(family, loaded, draw, tmp_path) -> None:
    backend = loaded(TINY[family])
    draw(backend, steps=1).files[0].rename(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    begun = {"image": str(tmp_path / "a.png"), "strength": 0.5}
    changed = draw(backend, **begun)
    assert changed.pixels[0].shape == (64, 64, 3)
    painted = draw(backend, **begun, mask=str(tmp_path / "mask.png"))
    assert painted.pixels[0].shape == (64, 64, 3)


@pytest.mark.parametrize("family", [row.id for row in FAMILIES if not row.can("image")])
def test_families_that_cannot_say_so(family, loaded, draw, tmp_path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(Refused, match=f"{find(family).title} draws from text only"):
        draw(loaded(TINY[family]), image=str(tmp_path / "a.png"))


@pytest.mark.parametrize("family", ["ldm", "sana", "pixart-sigma", "sd3", "flux"])
def test_weights_are_left_out_and_said_where_a_family_knows_none(family, loaded, draw) -> None:
    backend = loaded(TINY[family])
    drawn = draw(backend, prompt="a (cat:1.3)", steps=1)
    assert f"{find(family).title} knows no weights" in drawn.notices
    assert numpy.array_equal(drawn.pixels[0], draw(backend, steps=1).pixels[0])


@pytest.mark.parametrize("family", ["ldm", "sana", "pixart-sigma", "sd3", "flux"])
def test_a_prompt_that_is_cut_is_said(family, loaded, draw) -> None:
    drawn = draw(loaded(TINY[family]), prompt="a cat " * 200, steps=1)
    assert "it was cut after" in drawn.notices and "cat" in drawn.notices


def test_flux_says_that_a_negative_prompt_is_not_used(loaded, draw) -> None:
    drawn = draw(loaded("flux"), negative="a dog", steps=1)
    assert "no negative prompt" in drawn.notices
    assert "negative" not in json.loads(Image.open(drawn.files[0]).text["werkbank"])


@pytest.mark.parametrize("family", [row.id for row in FAMILIES])
def test_every_family_has_previews_and_variations(family, loaded, draw) -> None:
    from backends.events import Artifact

    backend = loaded(TINY[family])
    whole, other = (
        draw(backend, steps=2, preview_every=1, **asked)
        for asked in ({"variation": 1.0, "variation_seed": 9}, {"seed": 9})
    )
    assert [a.kind for a in whole.of(Artifact)] == ["preview", "image"]
    assert numpy.abs(whole.pixels[0].astype(int) - other.pixels[0]).max() <= 2


def test_a_latent_diffusion_model_takes_a_negative_prompt_too(loaded, draw) -> None:
    backend = loaded("latent_diffusion")
    plain, other = draw(backend).pixels[0], draw(backend, negative="a dog").pixels[0]
    assert not numpy.array_equal(plain, other)


def test_a_lora_is_refused_where_none_fits(loaded, draw, _own_models) -> None:
    made_pipelines.lora(_own_models / "strich.safetensors")
    with pytest.raises(Refused, match="LoRAs cannot be attached to Sana"):
        draw(loaded("sana"), adapters=[{"ref": "folder:strich.safetensors", "weight": 1.0}])


# Single files


def test_a_single_file_is_the_same_model(made, tmp_path, monkeypatch) -> None:
    import shutil

    folder = made("stable_diffusion")
    file = made_pipelines.single_file(folder, tmp_path / "alles.safetensors")
    settings = tmp_path / "settings" / "stable-diffusion-1.5"
    settings.mkdir(parents=True)
    for config in [*folder.glob("*/*config.json"), folder / "model_index.json"]:
        target = settings / config.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        if "tokenizer" not in config.parent.name:
            shutil.copy(config, target)
    monkeypatch.setattr(opening, "CONFIGS", tmp_path / "settings")
    found = recognising.Recognised(find("sd"), file, single=True)
    pipe = opening.open_pipeline(found, "fp32", torch.float32)
    whole = opening.open_pipeline(recognising.recognise(folder), "fp32", torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        mine, theirs = (getattr(p, part).state_dict() for p in (pipe, whole))
        assert set(mine) == set(theirs)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert pipe.safety_checker is None
    assert pipe.tokenizer("a cat").input_ids == whole.tokenizer("a cat").input_ids


SIZES = {
    "stable-diffusion-1.5": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "stable-diffusion-xl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480,
                            "text_encoder_2": 694_659_840},
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_the_settings_kept_here_make_models_of_the_published_size(name) -> None:
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    folder = opening.CONFIGS / name
    index = json.loads((folder / "model_index.json").read_text())
    assert recognising.recognise(folder).family.config == name
    for part, parameters in SIZES[name].items():
        library, kind = index[part]
        if library == "diffusers":
            cls = getattr(diffusers, kind)
            with init_empty_weights():
                model = cls.from_config(cls.load_config(folder / part))
        else:
            cls = getattr(transformers, kind)
            with init_empty_weights():
                model = cls(cls.config_class.from_pretrained(folder / part))
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_words_kept_here_are_clips() -> None:
    from backends.image.clip_words import clip_tokenizer

    tokenizer = clip_tokenizer(opening.CONFIGS / "stable-diffusion-1.5" / "tokenizer")
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as OpenAI's own
    assert tokenizer.pad_token_id == 49407 and tokenizer.model_max_length == 77
    second = clip_tokenizer(opening.CONFIGS / "stable-diffusion-xl" / "tokenizer_2")
    assert second.pad_token == "!" and second.pad_token_id == 0


def test_a_single_file_without_its_settings_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(opening, "CONFIGS", tmp_path)
    found = recognising.Recognised(find("sd"), tmp_path / "a.safetensors", single=True)
    with pytest.raises(Refused, match="is missing here"):
        opening.open_pipeline(found, "fp32", torch.float32)
