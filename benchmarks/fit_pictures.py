"""The cells of `fit_gpu` that paint: SD 1.5 and SDXL with random weights, run by diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.card.fit_media import PicturePlan
from backends.card.shapes import Tensor, kind_of
from backends.card.source import Source

CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
CLIP_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD15: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8, "down_block_types": (CROSS_DOWN,) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + (CROSS_UP,) * 3,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN), "use_linear_projection": True,
    "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TINY: dict[str, Any] = {"block_out_channels": (32,) * 4}
TINY_XL = TINY | {"block_out_channels": (32,) * 3, "attention_head_dim": (2, 2, 2)}


def components(shape: str, tiny: bool) -> dict[str, Any]:
    """The models of the pipeline, made on the device that is the default now."""
    import diffusers
    import transformers

    large = shape == "sdxl"
    clip = transformers.CLIPTextConfig(**CLIP_L)
    unet = (SDXL if large else SD15) | ((TINY_XL if large else TINY) if tiny else {})
    vae = VAE | {"sample_size": 1024 if large else 512, "force_upcast": large}
    vae |= {"block_out_channels": (32,) * 4} if tiny else {}
    found: dict[str, Any] = {
        "text_encoder": transformers.CLIPTextModel(clip),
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": diffusers.AutoencoderKL(**vae),
    }
    if large:
        second = transformers.CLIPTextConfig(**CLIP_G)
        found["text_encoder_2"] = transformers.CLIPTextModelWithProjection(second)
    return found


def source(shape: str, tiny: bool) -> Source:
    """What `read_source` finds in such a pipeline's folder."""
    import torch

    with torch.device("meta"):
        made = components(shape, tiny)
    parts = tuple((name, _tensors(model)) for name, model in made.items())
    unet, vae = made["unet"].config, made["vae"].config
    config = {
        "first_channels": unet["block_out_channels"][0],
        "vae_channels": vae["block_out_channels"][0],
        "vae_scale": 2 ** (len(vae["block_out_channels"]) - 1),
        "vae_fp32": int(vae["force_upcast"]),
    }
    everything = tuple(t for _, tensors in parts for t in tensors)
    return Source("pipeline", 0, everything, None, parts, tuple(config.items()))


def _tensors(model: Any) -> tuple[Tensor, ...]:
    named = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    return tuple(Tensor(name, size, kind_of(name, size)) for name, size in named)


def plan(side: int, batch: int) -> PicturePlan:
    return PicturePlan(side, side, batch)


def paint(shape: str, side: int, batch: int, tiny: bool, device: str) -> Iterator[None]:
    """Reads the prompts, takes two steps with guidance, decodes one picture after another."""
    import torch

    dtype = torch.float16 if device == "cuda" else torch.float32
    made = {}
    for name, model in _built(shape, tiny, device, dtype):
        made[name] = model
    yield
    unet, vae = made["unet"], made["vae"]
    with torch.inference_mode():
        ids = torch.ones(2 * batch, 77, dtype=torch.long, device=device)
        seen = [made[n](ids, output_hidden_states=True).hidden_states[-2]
                for n in ("text_encoder", "text_encoder_2") if n in made]  # fmt: skip
        words = torch.cat(seen, -1)
        more: dict[str, Any] = {}
        if shape == "sdxl":
            pooled = torch.randn(2 * batch, 1280, device=device, dtype=dtype)
            times = torch.full((2 * batch, 6), float(side), device=device, dtype=dtype)
            more = {"text_embeds": pooled, "time_ids": times}
        latents = torch.randn(batch, 4, side // 8, side // 8, device=device, dtype=dtype)
        for step in (900, 500):
            noise = unet(
                torch.cat([latents] * 2), step, words, added_cond_kwargs=more or None
            ).sample
            empty, told = noise.chunk(2)
            latents = latents - 0.1 * (empty + 7 * (told - empty))
            del noise, empty, told
        if vae.config.force_upcast:
            vae.to(torch.float32)
            latents = latents.float()
        for one in latents:
            vae.decode(one[None])
    yield


def _built(shape: str, tiny: bool, device: str, dtype: Any) -> Iterator[tuple[str, Any]]:
    import torch

    with torch.device(device):
        for name, model in components(shape, tiny).items():
            yield name, model.to(dtype).eval()
