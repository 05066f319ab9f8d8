"""Models that are headers alone: what they would take can be foretold, nothing can be loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.backends.card.real_shapes import SHAPES


def write_7b(folder: Path) -> None:
    """Llama 2 7B in 16 bits, as far as its headers go: the file is one hole of 13.5 GB."""
    config = SHAPES["Llama 2 7B"] | {"architectures": ["LlamaForCausalLM"]}
    width, size, words = 4096, 11008, 32000
    shapes = {
        "model.embed_tokens": (words, width),
        "lm_head": (words, width),
        "model.norm": (width,),
    }
    for n in range(32):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.{x}_proj": (width, width) for x in "qkvo"}
        shapes |= {f"{layer}.mlp.{x}_proj": (size, width) for x in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj": (width, size)}
        shapes |= {f"{layer}.{x}_layernorm": (width,) for x in ("input", "post_attention")}
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        entry = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        header[f"{name}.weight"], at = entry, end
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
