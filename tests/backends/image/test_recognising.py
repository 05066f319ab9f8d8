"""Which family a folder or file is of, and what is not opened at all."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from backends.base import ModelRef, Refused
from backends.image.diffusers_image import DiffusersImage
from backends.image.families import FAMILIES
from backends.image.options import ImageOptions
from backends.image.recognising import recognise
from backends.models import library


def test_a_folder_is_known_by_its_index(made) -> None:
    assert recognise(made("stable_diffusion")).family.id == "sd"
    assert recognise(made("stable_diffusion_xl")).family.id == "sdxl"


def test_a_single_file_is_known_by_its_header(tmp_path) -> None:
    for family in FAMILIES:
        if family.keys:
            file = tmp_path / f"{family.id}.safetensors"
            save_file({key: torch.zeros(2, last or 5) for key, last in family.keys.items()}, file)
            found = recognise(file)
            assert found.family is family and found.single
    save_file({"model.layers.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(Refused, match=r"no checkpoint of a kind.*Stable Diffusion XL"):
        recognise(tmp_path / "other.safetensors")


def test_single_checkpoints_are_listed_as_image_models_and_loras_are_not(_own_models) -> None:
    from backends.models import library
    from tests.backends.image import made_pipelines

    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: torch.zeros(1)}, _own_models / "einzeln.safetensors")
    made_pipelines.lora(_own_models / "strich.safetensors")
    listed = {model.id: model.backend for model in library.list_models("image")}
    assert listed["folder:einzeln.safetensors"] == "diffusers"
    assert "folder:strich.safetensors" not in listed


@pytest.mark.parametrize(
    ("part", "named"),
    [("unet", ["my_code", "UNet2DConditionModel"]), ("unet", ["diffusers", "Runner"]),
     ("scheduler", ["os", "system"]), ("scheduler", ["diffusers", "a.b"]),
     ("extra", ["diffusers", "UNet2DConditionModel"]), ("vae", "AutoencoderKL"),
     ("tokenizer", ["transformers", "AutoModel", "x"])],
)  # fmt: skip
def test_an_index_that_names_another_class_is_refused_by_name(part, named, made, tmp_path) -> None:
    folder = tmp_path / "böse"
    shutil.copytree(made("stable_diffusion"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: named}))
    with pytest.raises(Refused, match=rf"for its {part}, which is not opened here"):
        recognise(folder)


@pytest.mark.parametrize("name", ["WuerstchenPipeline", ["my", "Pipe"], None])
def test_an_unknown_pipeline_is_refused_by_name(name, made, tmp_path) -> None:
    folder = tmp_path / "anders"
    shutil.copytree(made("stable_diffusion"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    with pytest.raises(Refused, match=r"which is not known here.*FluxPipeline"):
        recognise(folder)


def test_a_folder_without_an_index_is_no_image_model(tmp_path) -> None:
    with pytest.raises(Refused, match=r"no model_index\.json"):
        recognise(tmp_path)


def test_pickled_weights_are_not_opened(made, _own_models) -> None:
    folder = _own_models / "pickled"
    shutil.copytree(made("stable_diffusion"), folder)
    for file in folder.rglob("*.safetensors"):
        file.with_suffix(".bin").write_bytes(b"\x80\x02.")
        file.unlink()
    with pytest.raises(Refused, match="pickled file that could run code"):
        DiffusersImage().load(ModelRef("folder", "pickled"), ImageOptions(device="cpu"))


def test_weights_that_are_missing_are_not_drawn_at_random(made, _own_models) -> None:
    from safetensors.torch import load_file

    folder = _own_models / "torn"
    shutil.copytree(made("stable_diffusion"), folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    whole.pop("conv_in.weight")
    save_file(whole, file, metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"unet of torn lacks 1 of its tensors|conv_in"):
        DiffusersImage().load(ModelRef("folder", "torn"), ImageOptions(device="cpu"))


def test_the_safety_checker_of_a_folder_is_never_loaded(made, _own_models, draw) -> None:
    folder = _own_models / "checked"
    shutil.copytree(made("stable_diffusion"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    backend = DiffusersImage()
    backend.load(ModelRef("folder", "checked"), ImageOptions(device="cpu"))
    assert backend.model.pipe.safety_checker is None  # there is none: it would have failed
    assert draw(backend).pixels[0].std() > 1


def test_weights_in_16_bits_under_their_own_name_are_found(made, _own_models) -> None:
    folder = _own_models / "half"
    shutil.copytree(made("stable_diffusion"), folder)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    backend = DiffusersImage()
    backend.load(ModelRef("folder", "half"), ImageOptions(device="cpu", quantisation="bf16"))
    assert backend.model.pipe.unet.dtype == torch.bfloat16


def test_quantisation_and_device_are_chosen_or_refused() -> None:
    from backends.image.families import find
    from backends.image.options import choose

    auto = ImageOptions()
    assert choose(auto, False, find("sd")) == ("cpu", "fp32")
    assert choose(auto, True, find("sd")) == ("cuda", "fp16")
    assert choose(auto, True, find("flux")) == ("cuda", "nf4")
    with pytest.raises(Refused, match="no NVIDIA GPU"):
        choose(ImageOptions(device="cuda"), False, find("sd"))
    with pytest.raises(Refused, match="NF4 needs a GPU"):
        choose(ImageOptions(quantisation="nf4"), False, find("flux"))
    with pytest.raises(Refused, match="convolutional network"):
        choose(ImageOptions(quantisation="nf4"), True, find("sd"))


def test_a_model_that_draws_without_words_is_listed_with_the_reason(made) -> None:
    folder = made("stable_diffusion").parent / "ddpm"
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    weights = made("stable_diffusion") / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet" / weights.name).write_bytes(weights.read_bytes())
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    listed = {str(model.ref): model for model in library.list_models("image")}
    assert "'DDPMPipeline', which is not known here" in listed["folder:ddpm"].problem
    assert not listed["folder:stable_diffusion"].problem
    shutil.rmtree(folder)
