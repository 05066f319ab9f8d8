"""What can be known of a model from its headers, for `fit`: its weights, its sizes, its files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.card import shapes
from backends.card.shapes import Shape, Tensor
from backends.models.check import gguf_parts, read_json, read_safetensors
from backends.models.gguf_header import read_header

Stamp = tuple[tuple[str, int, int], ...]  # name, bytes and time of change of each file


@dataclass(frozen=True)
class Source:
    """A model before it is loaded.

    kind        gguf, safetensors, pipeline (diffusers) or speech
    tensors     its weights, those that are tied once; empty for a GGUF, which is used as it is
    file_bytes  of the weight files
    shape       of the language model in it, None where its config does not say
    parts       of a pipeline: the weights of each component
    prequantised  the checkpoint holds quantised weights, which stay as they are
    """

    kind: str
    file_bytes: int
    tensors: tuple[Tensor, ...] = ()
    shape: Shape | None = None
    parts: tuple[tuple[str, tuple[Tensor, ...]], ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    prequantised: bool = False

    def number(self, key: str, default: int = 0) -> int:
        value = dict(self.config).get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else default


def of_config(config: dict[str, Any]) -> Source | None:
    """A model of which only the config is known. None for a family that is not in the table."""
    shape = shapes.of_config(config)
    if shape is None or not shape.known:
        return None
    found = tuple(shapes.tensors(shape))
    return Source("safetensors", 2 * sum(t.count for t in found), found, shape)


def read_source(path: Path) -> Source:
    """Of a file or folder that `check` has passed, read again only when a file has changed.

    Raises Refused or OSError where it cannot be read.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else gguf_parts(path)
    stats = [(str(f), f.stat()) for f in files[:5000] if f.is_file()]
    return _read(path, tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats))


@lru_cache(maxsize=200)
def _read(path: Path, stamp: Stamp) -> Source:
    if path.suffix == ".gguf":
        header = read_header(path)
        return Source("gguf", sum(size for _, size, _ in stamp), shape=shapes.of_gguf(header))
    if path.is_dir() and (path / "model_index.json").is_file():
        return _of_pipeline(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    config = _config(path)
    shape = shapes.of_config(config)
    found, size = _tensors(files)
    if shape and (shape.tied or not any(t.kind == "head" for t in found)):
        found = [t for t in found if t.kind != "head"]
    name = str((config.get("architectures") or [""])[0])
    speech = name.endswith("ForCTC") or "Whisper" in name or "Speech" in name
    flat = tuple((k, v) for k, v in config.items() if isinstance(v, int | float | str))
    return Source(
        "speech" if speech else "safetensors", size, tuple(found), shape,
        config=flat, prequantised=isinstance(config.get("quantization_config"), dict),
    )  # fmt: skip


def _of_pipeline(folder: Path) -> Source:
    """Each component lies in a folder of its own, one set of weights in each that counts."""
    parts, total = [], 0
    index = read_json(folder / "model_index.json")
    for name, kind in index.items():
        inner = folder / name
        if not isinstance(kind, list) or kind[:1] == [None] or not inner.is_dir():
            continue
        files = sorted(inner.glob("*.safetensors"))
        plain = [f for f in files if not any(m in f.name for m in (".fp16.", ".bf16.", "non_ema"))]
        found, size = _tensors(plain or files)
        if found:
            parts.append((name, tuple(found)))
            total += size
    unet = _config(folder / "unet") or _config(folder / "transformer")
    flat = {k: v for k, v in unet.items() if isinstance(v, int | float | str)}
    channels = unet.get("block_out_channels")
    if isinstance(channels, list) and channels and isinstance(channels[0], int):
        flat["first_channels"] = channels[0]
    vae = _config(folder / "vae")
    blocks = vae.get("block_out_channels")
    if isinstance(blocks, list) and blocks and isinstance(blocks[0], int):
        flat |= {"vae_channels": blocks[0], "vae_scale": 2 ** (len(blocks) - 1)}
    flat["vae_fp32"] = int(bool(vae.get("force_upcast")))
    everything = tuple(t for _, tensors in parts for t in tensors)
    return Source("pipeline", total, everything, None, tuple(parts), tuple(flat.items()))


def _tensors(files: list[Path]) -> tuple[list[Tensor], int]:
    found, size = [], 0
    for file in files:
        header = read_safetensors(file)
        size += header.bytes
        found += [Tensor(n, s, shapes.kind_of(n, s)) for n, s in header.tensors.items()]
    return found, size


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        content = read_json(file) if file.is_file() else None
    except Refused:
        return {}
    return content if isinstance(content, dict) else {}
