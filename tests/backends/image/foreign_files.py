"""Pictures as other programs write them, byte by byte where it matters."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

A1111 = (
    "a red fox, (autumn:1.2) <lora:ink:0.8>\nsecond line\nNegative prompt: blurry\nugly\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123456789, "
    'Size: 512x768, Model hash: abc123, Model: dreamshaper_8, VAE: "a, b: c", '
    "Variation seed: 5, Variation seed strength: 0.2, Denoising strength: 0.45, Clip skip: 2, "
    "Hires upscale: 1.5, Hires upscaler: 4x-UltraSharp, Version: v1.10.1"
)
COMFY: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 42, "steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m_sde_gpu",
        "scheduler": "karras", "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0],
        "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage",
          "inputs": {"width": 640, "height": ["20", 0], "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["21", 0], "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["10", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "ink.safetensors", "strength_model": 0.7, "strength_clip": 1.0,
        "model": ["4", 0], "clip": ["4", 1]}},
    "20": {"class_type": "PrimitiveInt", "inputs": {"value": 448}},
    "21": {"class_type": "PrimitiveString", "inputs": {"value": "ein Fuchs 🦊"}},
    "30": {"class_type": "UltimateSDUpscale", "inputs": {"image": ["8", 0], "is_changed": None}},
}  # fmt: skip
FLUX: dict[str, Any] = {
    "13": {"class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0],
        "latent_image": ["27", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 99}},
    "22": {"class_type": "BasicGuider", "inputs": {"model": ["12", 0], "conditioning": ["26", 0]}},
    "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "17": {"class_type": "BasicScheduler", "inputs": {
        "scheduler": "simple", "steps": 20, "denoise": 1.0, "model": ["12", 0]}},
    "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
    "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024}},
}  # fmt: skip
WORKFLOW: dict[str, Any] = {
    "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "CONDITIONING"],
              [3, 5, 0, 3, 3, "LATENT"]],
    "nodes": [
        {"id": 3, "type": "KSampler", "widgets_values": [7, "fixed", 12, 5.5, "euler", "normal", 1],
         "inputs": [{"name": "model", "link": 1}, {"name": "positive", "link": 2},
                    {"name": "negative", "link": None}, {"name": "latent_image", "link": 3}]},
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["base.safetensors"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [256, 320, 1]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a fox"], "inputs": []},
    ],
}  # fmt: skip
INVOKE: dict[str, Any] = {
    "app_version": "5.6.0", "generation_mode": "txt2img", "positive_prompt": "a red fox",
    "negative_prompt": "blurry", "width": 832, "height": 1216, "seed": 3141, "steps": 30,
    "cfg_scale": 5.5, "scheduler": "dpmpp_2m_k", "cfg_rescale_multiplier": 0.0,
    "model": {"key": "x", "hash": "blake3:1", "name": "juggernaut", "base": "sdxl"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.5}],
}  # fmt: skip
SD_METADATA: dict[str, Any] = {
    "model_weights": "stable-diffusion-1.5", "app_version": "2.3.0",
    "image": {"prompt": [{"prompt": "a fox [blurry]", "weight": 1.0}], "steps": 50,
              "cfg_scale": 7.5, "width": 512, "height": 640, "seed": 11, "sampler": "k_euler_a",
              "type": "txt2img"},
}  # fmt: skip
DREAM = '"a fox [blurry] in snow" -s 50 -S 1234 -W 512 -H 640 -C 7.5 -A k_lms -U 2'
FOOOCUS: dict[str, Any] = {
    "base_model": "juggernautXL_v8", "base_model_hash": "aeb7e9e689", "prompt": "a fox",
    "negative_prompt": "", "full_prompt": ["a fox, cinematic"], "styles": "['Fooocus V2']",
    "steps": 30, "guidance_scale": 4.0, "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras", "seed": "8124", "sharpness": 2.0, "clip_skip": 2,
    "loras": [["ink", 0.25, "abc"]], "lora_combined_1": "ink : 0.25",
    "lora_combined_2": "snow : 0.1", "version": "Fooocus v2.5.5",
}  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8), after: bytes = b"") -> bytes:
    """A PNG with these chunks before its pixels, and `after` behind them."""
    head = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 72)
    return (
        b"\x89PNG\r\n\x1a\n"
        + b"".join((chunk(b"IHDR", head), *chunks, chunk(b"IDAT", pixels), after))
        + chunk(b"IEND", b"")
    )


def text(key: str, value: str) -> bytes:
    return chunk(b"tEXt", key.encode() + b"\0" + value.encode("latin-1"))


def itxt(key: str, value: str, *, packed: bool = False) -> bytes:
    body = zlib.compress(value.encode()) if packed else value.encode()
    return chunk(b"iTXt", key.encode() + b"\0" + bytes([packed, 0]) + b"\0\0" + body)


def ztxt(key: str, packed: bytes) -> bytes:
    return chunk(b"zTXt", key.encode() + b"\0\0" + packed)


def as_json(value: Any) -> str:
    return json.dumps(value)


def exif(comment: bytes = b"", *, order: str = "<", make: str = "", model: str = "") -> bytes:
    """TIFF with a UserComment, and Make and Model, where ComfyUI has its graphs."""
    fields = [(0x010F, 2, make.encode() + b"\0"), (0x0110, 2, model.encode() + b"\0")]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    out, at = b"", 8 + 2 + 12 * 3 + 4
    entries = b""
    for tag, kind, value in fields:
        place = struct.pack(order + "I", at + len(out)) if len(value) > 4 else value.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(value)) + place
        out += value if len(value) > 4 else b""
    inner = at + len(out)
    entries += struct.pack(order + "HHII", 0x8769, 4, 1, inner)
    where = inner + 2 + 12 + 4
    folder = struct.pack(order + "H", 1) + struct.pack(
        order + "HHII", 0x9286, 7, len(comment), where
    )
    return (
        mark + struct.pack(order + "I", 8) + struct.pack(order + "H", 3) + entries
        + b"\0\0\0\0" + out + folder + b"\0\0\0\0" + comment
    )  # fmt: skip


def jpeg(*blocks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """The beginning of one: nothing behind its frame is looked at."""
    frame = struct.pack(">BHHB", 8, size[1], size[0], 3) + b"\0" * 9
    parts = [b"\xff\xe1" + struct.pack(">H", len(b) + 2) + b for b in blocks]
    return (
        b"\xff\xd8" + b"".join(parts) + b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
        + b"\xff\xda\0\x02pixels"
    )  # fmt: skip


def webp(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (8, 8)) -> bytes:
    head = b"\0\0\0\0" + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
    body = b"WEBP"
    for kind, data in ((b"VP8X", head), *chunks):
        body += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body
