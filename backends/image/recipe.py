"""A picture's recipe, written into its PNG: Werkbank's own as JSON, AUTOMATIC1111's as text.

    werkbank     iTXt: {"werkbank": 1, "prompt": …, …}, all that is needed to draw it again
    parameters   tEXt (iTXt where Latin-1 does not do), as AUTOMATIC1111's `create_infotext`
                 writes it, so that other programs fill their forms from it

A recipe ("said") is a dict with any of: prompt, negative, steps, guidance, width, height (px),
seed, scheduler, model (a reference), model_title, strength, variation_seed, variation, clip_skip,
enlarge, enlarge_strength, adapters ([{"ref", "weight"}]), family, kind, versions.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.runtime.disk import sync_folder

if TYPE_CHECKING:
    from PIL.Image import Image

OWN, A1111 = "werkbank", "parameters"  # the keywords of the two chunks
VERSION = 1  # of the JSON
COMPRESSION = 4  # of 9: as small as with Pillow's 6, in two thirds of its time (1024 px, noisy)


def save_png(picture: Image, path: Path, said: Mapping[str, Any]) -> None:
    """Write the picture with its recipe, whole or not at all; on the disk when this returns.

    The same picture and recipe give the same bytes. Raises OSError where the disk does not take
    it: what was at `path` before is there still, and nothing else is left behind.
    """
    data = png_bytes(picture, said)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def png_bytes(picture: Image, said: Mapping[str, Any]) -> bytes:
    """The picture as a PNG with its recipe."""
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_itxt(OWN, own_text(said))
    told.add_text(A1111, a1111_text(said))
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=told, compress_level=COMPRESSION)
    return out.getvalue()


def own_text(said: Mapping[str, Any]) -> str:
    """The recipe as JSON, its keys sorted, so that it does not depend on who made the dict."""
    return _clean(json.dumps({**said, OWN: VERSION}, ensure_ascii=False, sort_keys=True))


def a1111_text(said: Mapping[str, Any]) -> str:
    """The recipe as AUTOMATIC1111 writes it: prompt, negative prompt, one line of settings.

    Adapters stand in the prompt, as <lora:name:weight>: there is no other place for them.
    """
    prompt = str(said.get("prompt") or "")
    loras = "".join(
        f" <lora:{short_name(str(one.get('ref', '')))}:{_number(one.get('weight', 1.0))}>"
        for one in said.get("adapters") or ()
    )
    lines = [(prompt + loras).strip()]
    if negative := str(said.get("negative") or ""):
        lines.append(f"Negative prompt: {negative}")
    settings = [f"{name}: {_quoted(value)}" for name, value in _settings(said) if value != ""]
    return _clean("\n".join([*lines, ", ".join(settings)]).strip())


def short_name(ref: str) -> str:
    """What other programs would call a model or an adapter: its file's name, without its ending.

    `hub:owner/name@main:file.safetensors` is "file", `hub:owner/name` "name", `job:20260101-x@500`
    "20260101-x".
    """
    inner = ref.partition(":")[2] or ref
    repo, _, file = inner.partition(":")
    name = (file or repo.partition("@")[0]).rpartition("/")[2]
    return re.sub(r"\.(safetensors|gguf|ckpt|pt|bin)$", "", name)


def _settings(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values in AUTOMATIC1111's order; "" is left out."""
    width, height = said.get("width"), said.get("height")
    model = str(said.get("model_title") or short_name(str(said.get("model") or "")))
    varied, enlarged = bool(said.get("variation")), (said.get("enlarge") or 1.0) > 1.0
    # One name for both there: a picture is either begun from another, or enlarged.
    change = said.get("enlarge_strength") if enlarged else said.get("strength")
    skip = int(said.get("clip_skip") or 0)
    version = (said.get("versions") or {}).get("werkbank")
    return [
        ("Steps", _number(said.get("steps"))),
        ("Sampler", str(said.get("scheduler") or "")),
        ("CFG scale", _number(said.get("guidance"))),
        ("Seed", _number(said.get("seed"))),
        ("Size", f"{width}x{height}" if width and height else ""),
        ("Model", model),
        ("Variation seed", _number(said.get("variation_seed")) if varied else ""),
        ("Variation seed strength", _number(said.get("variation")) if varied else ""),
        ("Denoising strength", _number(change)),
        ("Clip skip", str(skip + 1) if skip else ""),  # there 1 is the last layer, none left out
        ("Hires upscale", _number(said.get("enlarge")) if enlarged else ""),
        ("Hires upscaler", "Latent" if enlarged else ""),
        ("Version", f"Werkbank {version}" if version else ""),
    ]


def _number(value: Any) -> str:
    """7.5 as "7.5", 7.0 as "7", 0.30000000000000004 as "0.3"; "" for none."""
    if value is None or value == "":
        return ""
    return str(value) if isinstance(value, int) else f"{float(value):.6g}"


def _quoted(value: str) -> str:
    """As AUTOMATIC1111's `quote`: JSON where a comma, a colon or a new line is in it."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def _clean(text: str) -> str:
    """What a text chunk can hold: no half of a surrogate pair, and no NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
