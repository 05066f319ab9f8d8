"""A PEFT adapter as the GGUF file that llama.cpp takes: made once, kept in the cache by content.

As llama.cpp's own convert_lora_to_gguf.py makes them, but for the scale: PEFT has one for each
layer (patterns, rsLoRA), the GGUF format one for all, so here it is multiplied into the second
half.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.models.adapters import WEIGHTS, Adapter, adapter_files, split_name
from backends.models.gguf_header import Header

VERSION = 1  # part of the file's name: raise it when the file is made differently
# Architectures whose layers lie in the GGUF as in transformers; of the first ones the query and key
# rows are reordered within each head, since llama.cpp's rotary embedding takes pairs of neighbours.
REORDERED = ("llama", "granite", "smollm3")
AS_THEY_ARE = ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "starcoder2")
OTHER_WAY = "Use a GGUF adapter made with llama.cpp's convert_lora_to_gguf.py, or transformers."


def gguf_names(adapter: Adapter, base: Header) -> dict[str, str]:
    """The GGUF's names for the adapted layers. Raises Refused where the way there is not known."""
    import gguf

    name = base.architecture
    if name not in (*REORDERED, *AS_THEY_ARE):
        raise Refused(
            f"How an adapter for the architecture {name[:40]} becomes GGUF is not known here.",
            OTHER_WAY,
        )
    if adapter.dora or any(target.embedding for target in adapter.targets.values()):
        what = "weight-decomposed (DoRA)" if adapter.dora else "made for the embeddings, too"
        raise Refused(
            f"The adapter {adapter.name} is {what}, which llama.cpp cannot attach.",
            "Use it with transformers.",
        )
    architecture = next(key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(architecture, int(base.of_architecture("block_count", 0)))
    found = {layer: names.get_name(_plain(layer)) for layer in adapter.targets}
    return {layer: text or layer for layer, text in found.items()}


def ensure(adapter: Adapter, base: Header, names: dict[str, str], cache: Path) -> Path:
    """The adapter's GGUF file, made now where it is not there. Raises Refused for a full disk."""
    heads = _heads(base)
    text = f"{VERSION} {base.architecture} {heads} {sorted(names.items())}".encode()
    for file in adapter_files(adapter.path):
        with file.open("rb") as opened:
            text += hashlib.file_digest(opened, "sha256").digest()
    path = cache / "adapters" / f"{hashlib.sha256(text).hexdigest()[:32]}.gguf"
    if path.is_file():
        return path
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(partial, adapter, base.architecture, heads, names)
        os.replace(partial, path)
    except OSError as error:
        raise Refused(
            f"The adapter {adapter.name} could not be written as GGUF ({error.strerror}).",
            f"Free {3 * adapter.bytes // 10**6 + 1} MB in {cache}, or set WERKBANK_CACHE.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write(
    path: Path, adapter: Adapter, architecture: str, heads: tuple[int, int], names: dict[str, str]
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        for tensor, values in _tensors(adapter.path / WEIGHTS):
            layer, found = split_name(tensor)
            side = found["linear"] if found else None
            if side == "B":
                values = values * adapter.targets[layer].scale
                if architecture in REORDERED and layer.endswith((".q_proj", ".k_proj")):
                    values = reorder(values, heads[layer.endswith(".k_proj")])
            if side:
                writer.add_tensor(f"{names[layer]}.weight.lora_{side.lower()}", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def reorder(rows: Any, heads: int) -> Any:
    """Rows (outputs, rank), of each head first the even, then the odd ones: woven together.

    transformers turns row i with row i + n/2 of a head, llama.cpp row 2i with row 2i + 1.
    """
    import numpy

    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _tensors(file: Path) -> Iterable[tuple[str, Any]]:
    """Every tensor as fp32, without torch: llama.cpp's worker does without it."""
    import numpy
    import safetensors

    deserialize: Any = safetensors.deserialize
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    for name, entry in deserialize(file.read_bytes()):
        if entry["dtype"] not in kinds:
            raise Refused(f"{file.parent.name} keeps its weights as {entry['dtype']}.", OTHER_WAY)
        values = numpy.frombuffer(entry["data"], kinds[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":  # the upper half of an fp32
            values = (values.astype(numpy.uint32) << 16).view(numpy.float32)
        yield name, values.astype(numpy.float32)


def _heads(base: Header) -> tuple[int, int]:
    """Heads of the queries, and of the keys."""
    queries = base.of_architecture("attention.head_count", 0)
    keys = base.of_architecture("attention.head_count_kv", queries)
    if not isinstance(queries, int) or not isinstance(keys, int) or queries < 1 or keys < 1:
        raise Refused("The model's heads differ from layer to layer.", OTHER_WAY)
    return queries, keys


def _plain(layer: str) -> str:
    """A model with eyes calls its language model's layers by a longer name."""
    if layer.startswith("model.language_model."):
        return "model." + layer.removeprefix("model.language_model.")
    return layer.removeprefix("language_model.")
