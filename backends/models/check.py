"""Whether a model may be loaded at all, decided from headers, before native code sees the file.

Only safetensors and GGUF pass. Everything else is named as what it is, with the way out.
Formats: safetensors (an 8-byte length, a JSON header, one gapless buffer) and GGUF
(`gguf_header.py`). A folder is judged whole: weights, index, and its config files, in which
nothing may point to code.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.models.gguf_header import AGAIN, read_header

MAX_JSON_HEADER = 100_000_000  # bytes; the safetensors library has the same limit
MAX_CONFIG_BYTES = 20 * 2**20
MAX_FILES = 5000  # in one model folder

# Bits of one number, by safetensors' name for its type.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = (
    "Convert it to safetensors where you trust it, or take a version of the model that has "
    "safetensors or GGUF files."
)

# Keys with an underscore that transformers and diffusers wrote themselves, and that nothing reads
# as more than a label or a switch (read in transformers 5.23 and diffusers 0.42). All others are
# refused: `_attn_implementation_internal` once made transformers fetch and run code.
HARMLESS = {
    "_name_or_path": str,
    "_model_name_or_path": str,
    "_commit_hash": str,
    "_from_model_config": bool,
    "_attn_implementation_autoset": bool,
    "_remove_final_layer_norm": bool,
    "_valid_processor_keys": list,
    "_class_name": str,
    "_diffusers_version": str,
}
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size",
         "num_attention_heads", "num_key_value_heads", "max_position_embeddings")  # fmt: skip
MOST = 100_000_000  # no size in a config is larger
PACKED = 8  # numbers of 4 bits in one of 32, which is how some quantised weights are stored
LABELS = ("label2id",)  # maps whose keys are data, not settings
KERNEL_KEYS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file holds: shape and bytes of each tensor, and the file's size."""

    tensors: dict[str, tuple[int, ...]]
    bytes: int

    @property
    def parameters(self) -> int:
        total = 0
        for shape in self.tensors.values():
            total += _product(shape)
        return total


def check_path(path: Path) -> None:
    """Raises Refused, in a sentence, where the file or folder must not be loaded."""
    try:
        if path.is_dir():
            check_folder(path)
        else:
            check_file(path)
    except OSError as error:
        raise Refused(
            f"The model {path.name} cannot be read ({error.strerror or error}).",
            "Check that the file is there and that you may read it.",
        ) from error


def check_file(path: Path) -> None:
    """One weight file. Raises Refused, or OSError where it cannot be read."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refused(f"{path.name} is not a file.", "Put the model's file there.")
    if path.suffix == ".gguf":
        check_gguf(gguf_parts(path))
    elif path.suffix == ".safetensors":
        read_safetensors(path)
    else:
        kind = what_it_is(path)
        raise Refused(
            f"{path.name} is {kind}, and only safetensors and GGUF files are loaded.", CONVERT
        )


def check_gguf(parts: list[Path]) -> None:
    """All files of one GGUF model."""
    for part in parts:
        if not part.is_file():
            raise Refused(
                f"The part {part.name} of the model is missing ({len(parts)} belong to it).", AGAIN
            )
        _check_kind(part, "GGUF file")
        read_header(part)


def gguf_parts(path: Path) -> list[Path]:
    """All files of a GGUF model that was split; for any other, the file itself."""
    return [path.with_name(name) for name in gguf_name_parts(path.name)]


def gguf_name_parts(name: str) -> list[str]:
    """The names of all files of the GGUF model that a file of this name belongs to."""
    found = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", name)
    if not found or not 0 < int(found[3]) <= 1000:
        return [name]
    stem, total = found[1], found[3]
    return [f"{stem}-{n:05}-of-{total}.gguf" for n in range(1, int(total) + 1)]


def what_it_is(path: Path) -> str:
    """What a file really is, by its first bytes, with an article."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if head[:4] == b"GGUF":
        return "a GGUF file"
    if head[:4] == b"PK\x03\x04":
        return "a zip archive (PyTorch's pickled format is one)"
    short = head[5:9] == b"\0\0\0{"  # safetensors whose length begins as a pickle does
    if not short and head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself"
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return "an archive"
    if head[8:9] == b"{":
        return "a safetensors file"
    return "a file of an unknown kind"


def _check_kind(path: Path, wanted: str) -> None:
    kind = what_it_is(path)
    if not kind.endswith(wanted):
        raise Refused(f"The file {path.name} is {kind}, and not a {wanted}.", AGAIN)


def read_safetensors(path: Path) -> SafetensorsHeader:
    """The header of a safetensors file. Raises Refused where it does not add up."""
    _check_kind(path, "safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_JSON_HEADER:
            raise _damaged(path, f"its header claims to be {length:,} bytes long")
        if 8 + length > size:
            raise _incomplete(path, size, 8 + length)
        header = _parse_json(path, file.read(length))
    tensors, end = _check_tensors(path, header)
    if size < 8 + length + end:
        raise _incomplete(path, size, 8 + length + end)
    if size > 8 + length + end:
        raise _damaged(path, f"{size - 8 - length - end:,} bytes follow after its last tensor")
    return SafetensorsHeader(tensors, size)


def _check_tensors(path: Path, header: Any) -> tuple[dict[str, tuple[int, ...]], int]:
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    spans, tensors = [], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, stop, shape = _check_entry(path, name, entry)
        spans.append((begin, stop, name))
        tensors[name] = shape
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            what = "lies over another one" if begin < end else "leaves a hole before it"
            raise _damaged(path, f"the tensor {name[:60]!r} {what}")
        end = stop
    return tensors, end


def _check_entry(path: Path, name: str, entry: Any) -> tuple[int, int, tuple[int, ...]]:
    bad = _damaged(path, f"the entry of the tensor {name[:60]!r} makes no sense")
    if not isinstance(entry, dict):
        raise bad
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise bad
    numbers = [*shape, *offsets]
    if any(type(n) is not int or not 0 <= n < 2**60 for n in numbers) or len(shape) > 32:
        raise bad
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _damaged(path, f"the tensor {name[:60]!r} has the unknown type {str(dtype)[:20]}")
    begin, stop = offsets
    if (stop - begin) * 8 != _product(tuple(shape)) * BITS[dtype]:
        raise _damaged(path, f"the tensor {name[:60]!r} has not the size that its shape needs")
    return begin, stop, tuple(shape)


# Folders


def check_folder(folder: Path) -> None:
    """A model's folder. Raises Refused, or OSError where it cannot be read."""
    files = list(files_inside(folder))
    _check_configs(files)
    weights = [f for f in files if f.suffix in (".safetensors", ".gguf")]
    pickles = [f for f in files if f.suffix in PICKLED]
    if not weights:
        if pickles:
            raise Refused(
                f"The folder {folder.name} holds its weights only as {pickles[0].name}, "
                "a pickled file that could run code when it is opened.",
                CONVERT,
            )
        raise Refused(f"The folder {folder.name} holds no model.", AGAIN)
    headers = {f: read_safetensors(f) for f in weights if f.suffix == ".safetensors"}
    for parts in {tuple(gguf_parts(f)) for f in weights if f.suffix == ".gguf"}:
        check_gguf(list(parts))
    for file in files:
        if file.name.endswith(".safetensors.index.json"):
            _check_index(file, headers)
        elif headers and file.name == "config.json" and not is_adapter(file.parent):
            _check_sizes(read_json(file), f"{file.parent.name}/{file.name}", [*headers.values()])


def is_adapter(folder: Path) -> bool:
    """Whether it holds what is added to another model, whose sizes its config.json may give."""
    return (folder / "adapter_config.json").is_file()


def files_inside(folder: Path) -> Iterator[Path]:
    """Every file of a model's folder. Raises Refused for a link that leads out of it."""
    allowed = [root.resolve() for root in (folder, *_blob_folders(folder)) if root.is_dir()]
    count = 0
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here, name)
            count += 1
            if count > MAX_FILES:
                raise Refused(
                    f"The folder {folder.name} holds more than {MAX_FILES} files.",
                    "Keep only the model's own files in it.",
                )
            if path.is_symlink() and not any(
                path.resolve().is_relative_to(root) for root in allowed
            ):
                raise Refused(
                    f"{name} in the folder {folder.name} is a link that leads out of it.",
                    "Put the file itself there.",
                )
            if name in files and stat.S_ISREG(path.stat().st_mode):
                yield path


def _blob_folders(folder: Path) -> list[Path]:
    """Where the hub cache keeps the files that the links in a snapshot lead to.

    A snapshot is `models--owner--name/snapshots/<commit>`, its blobs are beside `snapshots`, and
    since huggingface_hub 2 also in one store for the whole cache.
    """
    if folder.parent.name != "snapshots":
        return []
    model = folder.parent.parent
    return [model / "blobs", model.parent / "blobs"]


def _check_configs(files: list[Path]) -> None:
    for file in files:
        if file.suffix == ".json" and ("config" in file.name or file.name == "model_index.json"):
            config = read_json(file)
            if not isinstance(config, dict):
                raise _damaged(file, "it is not a JSON object")
            _check_keys(config, f"{file.parent.name}/{file.name}")


def _check_keys(value: Any, where: str) -> None:
    """No key may name code. Nested settings are handed to the same constructors: all are seen."""
    if isinstance(value, list):
        for entry in value:
            _check_keys(entry, where)
    if not isinstance(value, dict):
        return
    for key, entry in value.items():
        names_code = key == "auto_map" and entry
        hidden = key.startswith("_") and not _harmless(key, entry)
        kernel = key in KERNEL_KEYS and isinstance(entry, str) and "/" in entry
        if names_code or hidden or kernel:
            raise Refused(
                f"{where} has the setting {key!r}, which can make a model bring its own code.",
                "Use another model, or remove the setting if you know that it is not needed.",
            )
        if key not in LABELS:
            _check_keys(entry, where)


def _check_sizes(config: dict[str, Any], where: str, headers: list[SafetensorsHeader]) -> None:
    """Sizes that a library would believe: each must be a number that the weights can bear out."""
    for key in SIZES:
        value = config.get(key)
        if value is not None and (type(value) is not int or not 0 < value <= MOST):
            raise Refused(f"{where} says {str(value)[:40]!r} for {key}.", AGAIN)
    tensors = sum(len(header.tensors) for header in headers)
    layers = config.get("num_hidden_layers", 0) or 0
    if layers > max(tensors, 200):  # a folder with less missing is told by its loader, by name
        raise Refused(
            f"{where} says {layers:,} layers, and the weights hold {tensors:,} tensors.", AGAIN
        )
    # transformers makes room for the whole table of words before it sees that the file has less.
    words, width = config.get("vocab_size") or 0, config.get("hidden_size") or 0
    parameters = sum(header.parameters for header in headers)
    if words * width > PACKED * parameters:
        raise Refused(
            f"{where} says {words:,} words of {width:,} numbers, and the weights hold "
            f"{parameters:,} numbers in all.", AGAIN
        )  # fmt: skip
    if isinstance(config.get("text_config"), dict):
        _check_sizes(config["text_config"], where, headers)


def _harmless(key: str, entry: Any) -> bool:
    return key in HARMLESS and (entry is None or isinstance(entry, HARMLESS[key]))


def _check_index(index: Path, headers: dict[Path, SafetensorsHeader]) -> None:
    """Every part that the index names is there and holds what the index says."""
    content = read_json(index)
    parts = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise _damaged(index, "it names no parts")
    names = sorted(set(parts.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise _damaged(index, f"it names {name[:60]!r} as a part")
    missing = [n for n in names if index.with_name(n) not in headers]
    if missing:
        raise Refused(
            f"{len(missing)} of {len(names)} parts of the model are missing: {missing[0]}"
            f"{' and others' if len(missing) > 1 else ''}.",
            "Download the model again.",
        )
    for tensor, name in parts.items():
        if tensor not in headers[index.with_name(name)].tensors:
            raise _damaged(index, f"{name} lacks the tensor {tensor[:60]!r}")


def read_json(file: Path) -> Any:
    """A config file, parsed. Raises Refused for one that is not JSON."""
    size = file.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise _damaged(file, f"it is {size:,} bytes long, too much for a config file")
    return _parse_json(file, file.read_bytes())


def _parse_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        what = "its header" if path.suffix == ".safetensors" else "it"
        raise _damaged(path, f"{what} is not JSON") from None


def _damaged(path: Path, what: str) -> Refused:
    return Refused(f"The file {path.name} is damaged: {what}.", AGAIN)


def _incomplete(path: Path, size: int, whole: int) -> Refused:
    return Refused(
        f"The file {path.name} is incomplete ({size:,} of {whole:,} bytes).", "Download it again."
    )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
