"""Pipelines and speech: weights are exact, the rest is marked as a guess and grows as it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backends.card.fit_media import PicturePlan, predict_pictures, predict_speech
from backends.card.source import Source, read_source


@pytest.fixture
def pipeline(tmp_path: Path) -> Source:
    """A folder as diffusers writes it, with a checkpoint of the same weights in fp16 beside."""
    import torch
    from safetensors.torch import save_file

    index = {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": [None, None],
    }  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    configs = {
        "unet": {"block_out_channels": [320, 640, 1280, 1280]},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
        "text_encoder": {},
    }
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        weights = {"conv.weight": torch.zeros(64, 64, 3, 3), "proj.weight": torch.zeros(256, 64)}
        save_file(weights, tmp_path / name / "model.safetensors")
        half = {key: value.half() for key, value in weights.items()}
        save_file(half, tmp_path / name / "model.fp16.safetensors")
    return read_source(tmp_path)


def test_a_pipeline_is_counted_once_by_component(pipeline: Source) -> None:
    found = predict_pictures(pipeline, PicturePlan())
    each = 2 * (64 * 64 * 9 + 256 * 64)
    for name in ("unet", "vae", "text_encoder"):
        assert found.part(f"weights: {name}") == each
    assert found.held == 3 * each and found.uncertain and "guess" in found.note
    # 512 x 512: the VAE is what takes most, about 0.7 GB, beside SD 1.5's own 2.1 GB of weights.
    assert 0.6e9 < found.part("decoding") < 0.9e9
    alone = predict_pictures(pipeline, PicturePlan(resident=("unet",)))
    assert alone.held == each and alone.ram == 2 * each


def test_larger_pictures_and_more_of_them_never_need_less(pipeline: Source) -> None:
    plan = PicturePlan()
    sizes = [
        predict_pictures(pipeline, replace(plan, width=n, height=n)).total
        for n in (256, 512, 768, 1024, 2048)
    ]
    assert sizes == sorted(set(sizes))
    more = [predict_pictures(pipeline, replace(plan, images=n)).total for n in (1, 4, 16)]
    assert more == sorted(more) and more[-1] > more[0]


def test_whisper_and_wav2vec2_grow_with_what_they_hear() -> None:
    whisper = Source("speech", 0, config=(("num_mel_bins", 128), ("d_model", 1280),
                     ("decoder_layers", 32), ("encoder_ffn_dim", 5120)))  # fmt: skip
    one = predict_speech(whisper, "fp16", "cuda:0")
    # Keys and values of 1,500 frames in 32 layers: the 246 MB that decoding is bound by.
    assert one.part("cache") == pytest.approx(246e6 + 73e6, rel=0.01)
    assert predict_speech(whisper, "fp16", "cuda:0", batch=8).part("cache") == 8 * one.part("cache")
    wav2vec2 = Source("speech", 0, config=(("hidden_size", 768),))
    times = [predict_speech(wav2vec2, "fp32", "cpu", seconds=n).total for n in (1, 30, 600)]
    assert times == sorted(set(times))
