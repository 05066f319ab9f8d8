"""LoRAs and textual inversions: attached, weighted, taken off, refused where they do not fit."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backends.base import Refused
from backends.image import loras
from tests.backends.image import made_pipelines


def use(name, weight=1.0):
    return {"ref": f"folder:{name}", "weight": weight}


@pytest.fixture(scope="module")
def files(_own_models):
    made_pipelines.lora(_own_models / "strich.safetensors")
    made_pipelines.lora(_own_models / "ordner" / "pytorch_lora_weights.safetensors", scale=-1.0)
    made_pipelines.kohya_lora(_own_models / "kohya.safetensors")
    made_pipelines.lora(_own_models / "fremd.safetensors", reads=768)
    return _own_models


def test_it_draws_what_diffusers_draws_with_it(files, made, loaded, draw) -> None:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        made("stable_diffusion"), safety_checker=None
    )
    pipe.load_lora_weights(load_file(files / "strich.safetensors"), adapter_name="a")
    pipe.set_adapters(["a"], [0.7])
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a cat", num_inference_steps=4, width=64, height=64,
        generator=[torch.Generator().manual_seed(7)],
    ).images[0]  # fmt: skip
    drawn = draw(loaded("stable_diffusion"), adapters=[use("strich.safetensors", 0.7)])
    assert numpy.array_equal(drawn.pixels[0], numpy.asarray(expected))
    said = json.loads(Image.open(drawn.files[0]).text["werkbank"])
    assert said["adapters"] == [{"ref": "folder:strich.safetensors", "weight": 0.7}]


def test_taken_off_or_at_weight_0_the_base_is_untouched_to_the_bit(files, loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    before = draw(sd).pixels[0]
    unet = sd.model.pipe.unet
    with_it = draw(sd, adapters=[use("strich.safetensors")]).pixels[0]
    assert not numpy.array_equal(with_it, before)
    assert numpy.array_equal(draw(sd, adapters=[use("strich.safetensors", 0)]).pixels[0], before)
    again = draw(sd, adapters=[use("strich.safetensors")]).pixels[0]
    assert numpy.array_equal(again, with_it)
    assert numpy.array_equal(draw(sd).pixels[0], before)
    assert sd.model.pipe.unet is unet and not any("lora" in n for n, _ in unet.named_modules())


def test_two_are_added_with_their_weights(files, loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    one, other = use("strich.safetensors"), use("ordner")
    first, second = draw(sd, adapters=[one]).pixels[0], draw(sd, adapters=[other]).pixels[0]
    both = draw(sd, adapters=[one, other]).pixels[0]
    plain = draw(sd).pixels[0]
    assert not numpy.array_equal(both, first) and not numpy.array_equal(both, second)
    assert numpy.abs(both.astype(int) - plain).max() <= 1  # these two undo each other


def test_kohyas_names_and_alpha_are_understood(files, loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    half = draw(sd, adapters=[use("strich.safetensors", 0.5)]).pixels[0]
    kohya = draw(sd, adapters=[use("kohya.safetensors")]).pixels[0]
    assert numpy.abs(half.astype(int) - kohya).max() <= 1


def test_a_folder_of_peft_is_understood_with_its_alpha(files, loaded, draw) -> None:
    folder = files / "gelernt"
    folder.mkdir(exist_ok=True)
    state = load_file(files / "strich.safetensors")
    peft = {f"base_model.model.{key.removeprefix('unet.')}": v for key, v in state.items()}
    save_file(peft, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 4}))
    sd = loaded("stable_diffusion")
    drawn = draw(sd, adapters=[use("gelernt")]).pixels[0]
    half = draw(sd, adapters=[use("strich.safetensors", 0.5)]).pixels[0]
    assert numpy.abs(half.astype(int) - drawn).max() <= 1


def test_one_for_another_family_is_named_and_refused_before_weights_are_touched(
    files, loaded, draw
) -> None:
    sd = loaded("stable_diffusion")
    before = draw(sd).pixels[0]
    with pytest.raises(Refused, match=r"fremd was made for Stable Diffusion 1\.5.*stable_diff"):
        draw(sd, adapters=[use("strich.safetensors"), use("fremd.safetensors")])
    assert sd.model.loras.attached == {}
    assert not any("lora" in name for name, _ in sd.model.pipe.unet.named_modules())
    assert numpy.array_equal(draw(sd).pixels[0], before)


@pytest.mark.parametrize(
    ("key", "shape", "kind"),
    [("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
      (4, 768), "Stable Diffusion 1.5"),
     ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
      (4, 2048), "Stable Diffusion XL"),
     ("unet.a.attn2.to_v.lora.down.weight", (4, 1024), "Stable Diffusion 2"),
     ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", (4, 3072), "FLUX.1"),
     ("transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight", (4, 1536),
      "Stable Diffusion 3"),
     ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", (4, 576),
      "a language model"),
     ("something.else", (1,), "")],
)  # fmt: skip
def test_the_kind_is_known_from_keys_and_shapes(key, shape, kind) -> None:
    assert loras.made_for({key: shape}) == kind


def test_the_same_layers_of_another_width_are_refused(files, loaded, draw) -> None:
    made_pipelines.lora(files / "breit.safetensors", reads=48)
    with pytest.raises(Refused, match="breit was made for another kind of model"):
        draw(loaded("stable_diffusion"), adapters=[use("breit.safetensors")])


def test_what_is_no_lora_is_refused(files, loaded, draw) -> None:
    save_file({"x": torch.zeros(1)}, files / "nichts.safetensors")
    save_file({"a.dora_scale": torch.zeros(1)}, files / "dora.safetensors")
    for name, words in (("nichts", "another kind"), ("dora", "DoRA")):
        with pytest.raises(Refused, match=words):
            draw(loaded("stable_diffusion"), adapters=[use(f"{name}.safetensors")])


# Textual inversions


@pytest.fixture(scope="module")
def word(_own_models):
    torch.manual_seed(6)
    save_file({"emb_params": torch.randn(2, 32)}, _own_models / "mein-stil.safetensors")
    save_file({"emb_params": torch.randn(1, 768)}, _own_models / "zu-breit.safetensors")
    both = {"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 32)}
    save_file(both, _own_models / "paar.safetensors")
    return "folder:mein-stil.safetensors"


def test_a_word_of_ones_own_counts_in_the_prompt_and_is_gone_afterwards(word, loaded, draw) -> None:
    sd = loaded("stable_diffusion")
    asked = {"prompt": "a cat in mein-stil"}
    before, size = draw(sd, **asked).pixels[0], len(sd.model.pipe.tokenizer)
    drawn = draw(sd, **asked, embeddings=[word]).pixels[0]
    again = draw(sd, **asked, embeddings=[word]).pixels[0]
    assert not numpy.array_equal(drawn, before) and numpy.array_equal(drawn, again)
    weighted = draw(sd, prompt="a cat in (mein-stil:1.4)", embeddings=[word]).pixels[0]
    assert not numpy.array_equal(weighted, drawn)
    assert numpy.array_equal(draw(sd, **asked).pixels[0], before)
    assert len(sd.model.pipe.tokenizer) == size


def test_one_for_two_encoders_is_for_models_that_have_two(word, loaded, draw) -> None:
    xl, asked = loaded("stable_diffusion_xl"), {"prompt": "a cat in paar"}
    before = draw(xl, **asked).pixels[0]
    drawn = draw(xl, **asked, embeddings=["folder:paar.safetensors"]).pixels[0]
    assert not numpy.array_equal(before, drawn)
    draw(xl)  # takes it off again
    for model, name in (("stable_diffusion", "paar"), ("stable_diffusion", "zu-breit"),
                        ("stable_diffusion_xl", "mein-stil")):  # fmt: skip
        with pytest.raises(Refused, match="made for another kind of model"):
            draw(loaded(model), embeddings=[f"folder:{name}.safetensors"])
