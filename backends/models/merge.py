"""The process that puts an adapter into its base for good.

    python -m backends.models.merge BASE ADAPTER OUT

BASE is a model's reference, ADAPTER a PEFT folder, OUT a folder that is there and empty. The base
is never opened as a model: its files are copied tensor by tensor, and those that the adapter
changes are computed in fp32 and written in the base's own type. So what a training kept in 4 bits
is merged into the whole weights, and no more is in memory than one tensor. After it has found the
base the process may neither connect, nor start a program, nor write elsewhere.

Stdout, a JSON object a line: {"say": "progress", "done", "total", "file"}, then one of
    {"say": "done", "tensors", "changed", "bytes"}
    {"say": "failed", "message", "hint"}
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backends.base import ModelRef, Refused
from backends.events import Event, Progress
from backends.models import library
from backends.models.adapters import WEIGHTS, Adapter, Target, layer_and_kind, read_adapter
from backends.models.check import files_inside, read_json
from backends.models.gguf_copy import FULL_DISK, MANIFEST
from backends.models.repo import SMALL
from backends.runtime.fence import shut_doors

IN_CHAT = "Use the adapter in Chat: there it is attached while the model runs."
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PIECE = 16 * 2**20  # bytes that are copied at once
BASE_CARD = "BASE_MODEL_README.md"
TELL_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Change:
    """What the adapter does to one tensor of the base: W + scale * B A, with DoRA each output
    brought to the length in `magnitude`. `turned`: the base keeps inputs x outputs."""

    target: Target
    a: Any  # (rank, inputs)
    b: Any  # (outputs, rank)
    magnitude: Any = None  # (outputs,)
    turned: bool = False

    def of(self, weight: Any) -> Any:
        """The merged weight, from and in fp32."""
        import torch

        whole = (weight.T if self.turned else weight) + (self.b @ self.a) * self.target.scale
        if self.magnitude is not None:
            length = torch.linalg.norm(whole, dim=1)
            whole = whole * (self.magnitude / length)[:, None]
        return whole.T if self.turned else whole


def merge(
    base: Path, adapter: Path, out: Path, say: Callable[..., None] = lambda **fields: None
) -> dict[str, int]:
    """Write `base` with `adapter` in it into the folder `out`. Raises Refused, OSError.

    Returns how many tensors there are, how many were changed, and the bytes of the weights.
    """
    files = weight_files(base)
    headers = {file: header_of(file) for file in files}
    changes = changes_of(read_adapter(adapter), headers, base.name)
    teller = _Teller(say, sum(file.stat().st_size for file in files))
    for file in files:
        teller.file = file.name
        write_file(file, out / file.name, headers[file], changes, teller)
    copy_small(base, out)
    return {
        "tensors": sum(len(header) for header in headers.values()),
        "changed": len(changes),
        "bytes": teller.total,
    }


def weight_files(base: Path) -> list[Path]:
    """The files of the weights that transformers would read. Raises Refused."""
    index = base / "model.safetensors.index.json"
    if index.is_file():
        return [base / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    alone = base / "model.safetensors"
    found = [alone] if alone.is_file() else sorted(base.glob("*.safetensors"))
    if not found:
        raise Refused(f"The base {base.name} has no safetensors files to merge into.", IN_CHAT)
    return found


def header_of(file: Path) -> dict[str, dict[str, Any]]:
    """The entries of a safetensors file that `check` has passed, in the order of their bytes."""
    with file.open("rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    header.pop("__metadata__", None)
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))


def changes_of(
    adapter: Adapter, headers: dict[Path, dict[str, dict[str, Any]]], base: str
) -> dict[str, Change]:
    """What is to be done, by the tensor's name in the base. Raises Refused where the adapter fits
    none, or where the base keeps its weights in fewer bits."""
    from safetensors.torch import load_file

    entries = {name: entry for header in headers.values() for name, entry in header.items()}
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(adapter.path / WEIGHTS).items():
        layer, kind = layer_and_kind(key)
        parts.setdefault(layer, {})[kind] = tensor.float()
    changes = {}
    for layer, target in adapter.targets.items():
        name = find_tensor(layer, entries)
        entry = entries.get(name, {"shape": [], "dtype": ""})
        turned = adapter.fan_in_fan_out
        shape = [target.outputs, target.inputs]
        if not name or target.embedding:
            raise Refused(f"The files of {base} hold no layer {layer[:80]} to merge with.", IN_CHAT)
        if entry["dtype"] not in TYPES:
            raise Refused(
                f"The base {base} keeps its weights in fewer bits ({entry['dtype']}), and merging "
                "into those would spoil them.",
                IN_CHAT,
            )
        if entry["shape"] != (shape[::-1] if turned else shape):
            raise Refused(f"The adapter does not fit the layer {layer[:80]} of {base}.", IN_CHAT)
        part = parts[layer]
        magnitude = part.get("lora_magnitude_vector")
        if adapter.dora and magnitude is None:
            raise Refused(f"The adapter lacks the magnitudes of {layer[:80]}.", IN_CHAT)
        changes[name] = Change(
            target, part["lora_A"], part["lora_B"],
            None if magnitude is None else magnitude.flatten(), turned,
        )  # fmt: skip
    return changes


def find_tensor(layer: str, entries: dict[str, Any]) -> str:
    """The tensor of a layer; some files leave the first parts of its name out, or have more of
    them. "" where there is none, or more than one."""
    if f"{layer}.weight" in entries:
        return f"{layer}.weight"
    stems = [name.removesuffix(".weight") for name in entries if name.endswith(".weight")]
    found = [s for s in stems if s.endswith(f".{layer}") or layer.endswith(f".{s}")]
    return f"{found[0]}.weight" if len(found) == 1 else ""


def write_file(
    source: Path, target: Path, entries: dict[str, Any], changes: dict[str, Change],
    teller: _Teller,
) -> None:  # fmt: skip
    """One file of weights: the header as it is, then each tensor, changed or not."""
    with source.open("rb") as read, target.open("wb") as write:
        length = read.read(8)
        write.write(length + read.read(int.from_bytes(length, "little")))
        for name, entry in entries.items():
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            if name in changes:
                write.write(changed(read.read(size), entry, changes[name]))
                teller.tell(size)
            else:
                for piece in _pieces(read, size):
                    write.write(piece)
                    teller.tell(len(piece))
        write.flush()
        os.fsync(write.fileno())


def changed(data: bytes, entry: dict[str, Any], change: Change) -> bytes:
    """The bytes of a tensor with the adapter in it, of the same type."""
    import torch

    dtype = getattr(torch, TYPES[entry["dtype"]])
    weight = torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry["shape"])
    merged = change.of(weight.float()).to(dtype).contiguous()
    return bytes(merged.view(torch.uint8).numpy().tobytes())


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, PIECE))
        if not piece:
            raise OSError("the file ended early")
        size -= len(piece)
        yield piece


class _Teller:
    """Says how far it is, a few times a second."""

    def __init__(self, say: Callable[..., None], total: int) -> None:
        self.say, self.total, self.done, self.file, self.at = say, total, 0, "", 0.0

    def tell(self, size: int) -> None:
        self.done += size
        if time.monotonic() - self.at > TELL_EVERY:
            self.at = time.monotonic()
            self.say(say="progress", done=self.done, total=self.total, file=self.file)


def copy_small(base: Path, out: Path) -> None:
    """Config, tokenizer, template and licence; no code; the base's own card under another name."""
    for file in files_inside(base):
        if file.parent != base or file.name in (MANIFEST, library.ORIGIN):
            continue
        licence = file.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "USE_POLICY"))
        index = file.name.endswith(".index.json") and file.name != "model.safetensors.index.json"
        if file.name == "README.md":
            shutil.copyfile(file, out / BASE_CARD)
        elif (file.suffix in SMALL or licence) and not index:
            shutil.copyfile(file, out / file.name)


# The process


def main() -> None:
    base, adapter, out = ModelRef.parse(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to the log

    def say(**fields: Any) -> None:
        lines.write(json.dumps(fields) + "\n")
        lines.flush()

    def report(event: Event) -> None:
        if isinstance(event, Progress):
            say(say="progress", done=event.step, total=event.total, file=event.note)

    import torch

    torch.set_num_threads(1)
    _warm(torch)
    try:
        folder = library.prepare(base, report)
        shut_doors(writable=out)
        say(say="done", **merge(folder, adapter, out, say))
    except Refused as refused:
        say(say="failed", message=refused.message, hint=refused.hint)
    except MemoryError:
        say(say="failed", message="There is not enough memory to merge them.", hint="Free some.")
    except OSError as error:
        say(say="failed", **_disk(error, out))


def _disk(error: OSError, out: Path) -> dict[str, str]:
    if error.errno in FULL_DISK:
        message = f"The disk of {out.parent} is full."
        return {"message": message, "hint": "Free some space, then merge again."}
    message = f"A file could not be read or written ({error.strerror or error})."
    return {"message": message, "hint": "Check the folders of the model, then merge again."}


def _warm(torch: Any) -> None:
    """Modules that the first computation imports, before the doors are shut."""
    import safetensors.torch  # noqa: F401

    one = torch.ones(2, 2)
    change = Change(Target(2, 2, 1), one[:1], one[:, :1], one[0])
    change.of(one).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    main()
