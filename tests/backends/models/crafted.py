"""Model files made on the spot, whole ones and every kind of broken one."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from backends.models.gguf_header import read_header

GGUF_TYPES = {bool: 7, int: 4, float: 6, str: 8}


def safetensors(
    tensors: dict[str, tuple[list[int], list[int]]] | None = None, dtype: str = "F32"
) -> bytes:
    """A safetensors file from {name: (shape, [begin, end])}, its data all zeros."""
    tensors = tensors or {"weight": ([2, 3], [0, 24])}
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (shape, offsets) in tensors.items()
    }
    end = max(offsets[1] for _, offsets in tensors.values())
    return framed(json.dumps(header).encode(), b"\0" * end)


def framed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, value: Any) -> bytes:
    """One setting of a GGUF header."""
    if isinstance(value, list):
        items = b"".join(text(v) for v in value)
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + items
    kind = GGUF_TYPES[type(value)]
    body = text(value) if kind == 8 else struct.pack("<" + {7: "?", 4: "I", 6: "f"}[kind], value)
    return text(key) + struct.pack("<I", kind) + body


def tensor(name: str, shape: tuple[int, ...], offset: int = 0, kind: int = 0) -> bytes:
    """One tensor's entry in a GGUF header; kind 0 is F32."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    pairs: dict[str, Any] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 64,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> bytes:
    """A GGUF file. By default a tiny whole one with one tensor of 16 floats."""
    pairs = {"general.architecture": "llama", "llama.context_length": 128, **(pairs or {})}
    tensors = [tensor("weight", (16,))] if tensors is None else tensors
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if pair_count is None else pair_count,
    )
    head += b"".join(pair(k, v) for k, v in pairs.items()) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 256,
    "_name_or_path": "somebody/model",
}


def folder(path: Path, config: Any = None, **files: bytes) -> Path:
    """A model's folder: config.json, one weight file, and whatever else is given."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (path / "model.safetensors").write_bytes(safetensors())
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def with_template(source: Path, path: Path, template: str) -> Path:
    """The GGUF file `source` with another chat template in its header, written to `path`."""
    header = read_header(source)
    old = header.values["tokenizer.chat_template"].encode()
    new = template.encode()
    head = header.head.replace(struct.pack("<Q", len(old)) + old, struct.pack("<Q", len(new)) + new)
    with source.open("rb") as data, path.open("wb") as out:
        data.seek(header.data_start)
        out.write(head + b"\0" * (-len(head) % 32))
        shutil.copyfileobj(data, out)
    return path
