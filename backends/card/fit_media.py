"""What pipelines for images and models for speech take: weights, and a modelled peak beside them.

Rough, and marked as such until this card has measured it: what a UNet computes with grows with its
latent pixels, what a VAE computes with by the pixels of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backends.card.fit import Prediction
from backends.card.fit_load import CUBLAS, CUDA_CONTEXT, PLAIN, weight_bytes
from backends.card.plan import LoadPlan
from backends.card.source import Source

# Measured on an H100 with SD 1.5 and SDXL, 512 to 1,024 pixels wide, undivided: tensors of the VAE
# by pixel and byte of a number, convolutions' workspace included; what the allocator keeps.
VAE_BYTES, SLACK_PIXEL = 1230, 1000
UNET_TENSORS = 40  # of the size of its widest one, at once
DIT_TENSORS = 12  # of one layer's tokens
ROUGH = "What it computes with is a rough guess until it was measured here."
SPEECH_RATE = 16_000  # samples in a second
BACKBONES = ("unet", "transformer")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "bert")
MOST_WIDTH = 2048
TILE_SIDE = 512  # px


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """One picture or several: pixels, how many at once, and whether a negative prompt doubles it.

    resident   components that lie on the GPU at once; empty: all of them
    tiles      the VAE works piece by piece
    """

    width: int = 512
    height: int = 512
    images: int = 1
    guidance: bool = True
    quantisation: str = "fp16"
    device: str = "cuda:0"
    resident: tuple[str, ...] = ()
    tiles: bool = False


def predict_pictures(source: Source, plan: PicturePlan, base: int = 0) -> Prediction:
    on_gpu, number = plan.device != "cpu", PLAIN.get(plan.quantisation, 2)
    sizes = {n: weight_bytes(tensors, plan.quantisation, on_gpu) for n, tensors in source.parts}
    there = {n: s for n, s in sizes.items() if not plan.resident or n in plan.resident}
    scale = source.number("vae_scale", 8)
    latents = (plan.width // scale) * (plan.height // scale)
    passes = plan.images * (2 if plan.guidance else 1)
    if first := source.number("first_channels"):
        steps = latents * passes * first * number * UNET_TENSORS
    else:  # a transformer: every token is a square of latent pixels
        heads = source.number("num_attention_heads", 24) * source.number("attention_head_dim", 64)
        tokens = latents // max(1, source.number("patch_size", 2)) ** 2
        steps = tokens * passes * heads * number * DIT_TENSORS
    decoded = 4 if source.number("vae_fp32") else number
    wide = source.number("vae_channels", 128) / 128
    seen = plan.width * plan.height  # one picture at a time
    seen = min(seen, TILE_SIDE**2) if plan.tiles else seen
    pixels = int(seen * VAE_BYTES * decoded * wide)
    if on_gpu and decoded > number and "vae" in there:  # it is made wider for the decoding
        pixels += there["vae"] * (decoded - number) // number
    parts = [(f"weights: {n}", s) for n, s in there.items()]
    parts.append(("decoding" if pixels > steps else "steps", max(pixels, steps)))
    if on_gpu:
        slack = seen * SLACK_PIXEL
        parts += [("CUDA context", CUDA_CONTEXT), ("matrix products", CUBLAS), ("allocator", slack)]
    parts += [("libraries", base)] if base else []
    held = sum(there.values()) + (0 if on_gpu else base)
    return Prediction(tuple(parts), held, sum(sizes.values()) - sum(there.values()), True, ROUGH)


def predict_load(source: Source, plan: LoadPlan, base: int = 0) -> Prediction:
    """A load of an image model and one picture of the size that it was made for.

    Where what leaves the GPU is automatic it is what costs next to no time: text encoders wait in
    RAM but for the moment that they read, and the VAE works in tiles.
    """
    quantisation = plan.quantisation
    if quantisation == "nf4" and source.number("first_channels"):
        quantisation = "fp16"  # a convolutional network is not packed
    side = source.number("width") or source.number("sample_size") * source.number("vae_scale", 8)
    side = side if 0 < side <= MOST_WIDTH else 512
    if not source.parts:  # a single file
        source = replace(source, parts=(("model", source.tensors),))
    asked = PicturePlan(side, side, quantisation=quantisation, device=plan.device)
    if not plan.on_gpu:
        return predict_pictures(source, asked, base)
    way = "words" if plan.offload == "auto" else plan.offload
    return predict_way(source, replace(asked, tiles=way != "none"), way)


def predict_way(source: Source, plan: PicturePlan, way: str) -> Prediction:
    """The larger of the two moments: when the prompt is read, and when the picture is drawn.

    way: none, words, model or group, as in `backends.image.placing`
    """
    names = [name for name, _ in source.parts]
    drawing = tuple(
        name for name in names
        if name not in ENCODERS and (way != "group" or name not in BACKBONES)
    )  # fmt: skip
    reading = tuple(name for name in names if way == "words" or name not in BACKBONES)
    if way == "none" or len(names) < 2:
        return predict_pictures(source, plan)
    drawn = predict_pictures(source, replace(plan, resident=drawing or tuple(names)))
    # Reading takes little beside the weights.
    read = predict_pictures(source, replace(plan, width=64, height=64, resident=reading))
    return max(drawn, read, key=lambda one: one.total)


def predict_speech(
    source: Source, quantisation: str, device: str, seconds: float = 30, batch: int = 1,
    base: int = 0,
) -> Prediction:  # fmt: skip
    """Whisper (an encoder over 30 s and a decoder that looks at it) or wav2vec2 (convolutions over
    the sound itself)."""
    on_gpu, number = device != "cpu", PLAIN.get(quantisation, 2)
    weights = weight_bytes(source.tensors, quantisation, on_gpu)
    width = source.number("d_model") or source.number("hidden_size", 768)
    whisper = bool(source.number("num_mel_bins"))
    if whisper:
        frames, layers = (
            source.number("max_source_positions", 1500),
            source.number("decoder_layers"),
        )
        heads = source.number("encoder_attention_heads", 8)
        seen = batch * frames * layers * 2 * width * number
        own = batch * source.number("max_target_positions", 448) * layers * 2 * width * number
        mlp = source.number("encoder_ffn_dim", 4 * width)
        work = batch * frames * number * (6 * width + 2 * mlp + (0 if on_gpu else heads * frames))
        work = max(work, 3 * batch * 2 * frames * width * number)  # the two convolutions
        # The encoder has ended before the decoder's cache fills; what it gave stays.
        work = max(work - seen - own, batch * frames * width * number)
    else:
        samples = int(seconds * SPEECH_RATE) * batch
        seen = own = 0
        work = 3 * samples // 5 * 512 * number  # after the first convolution, and its norm
    parts = [("weights", weights), ("cache", seen + own), ("activations", work)]
    parts += [("CUDA context", CUDA_CONTEXT), ("matrix products", CUBLAS)] if on_gpu else []
    parts += [("allocator", weights // 30)] if on_gpu else []
    parts += [("libraries", base)] if base else []
    held = weights + (0 if on_gpu else base)
    return Prediction(tuple(parts), held, 0, True, ROUGH)
