"""The process that turns pickled weights into safetensors.

    python -m backends.models.convert IN OUT

IN is a file or a model's folder, OUT a folder that is there and empty. It is thrown away
afterwards: offline, without a token, with limits on memory, time and file sizes where the system
keeps them, and from the moment that it opens IN it may neither connect, nor start a program, nor
write elsewhere. torch reads with `weights_only=True`, which makes tensors and refuses everything
else by name.

Stdout, a JSON object a line: {"say": "progress", "done", "total", "file"}, then one of
    {"say": "done", "tensors", "bytes", "before", "types", "largest", "left_out", "dropped"}
    {"say": "failed", "message", "hint"}
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.models.check import PICKLED, check_path, files_inside, read_json, what_it_is
from backends.models.gguf_copy import FULL_DISK
from backends.models.repo import SMALL
from backends.runtime.fence import shut_doors

SAFE = "Take a safetensors or GGUF version of the model."
# What a training leaves beside the weights, and nothing needs to run the model.
NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*|.*_optim.*)\.\w+")
INNER = ("state_dict", "model", "module", "weights", "params_ema", "params")
EMBEDDINGS = ("embed", "wte", "shared.")  # the name of a tied pair that transformers reads
LARGEST = 8
HEADER_BYTES = 100_000_000  # that a result may be larger than its source


@dataclass
class Result:
    """What was made. `left_out` counts entries that are no tensors; `dropped` names tensors that
    are one with another, by its name."""

    tensors: int = 0
    bytes: int = 0
    before: int = 0
    types: Counter[str] = field(default_factory=Counter)
    largest: list[tuple[str, list[int], str]] = field(default_factory=list)
    left_out: int = 0
    dropped: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "types": dict(self.types)}


def pickles_of(source: Path) -> list[Path]:
    """The pickled weights in a file or folder, in order. Raises Refused where there are none."""
    files = [source] if source.is_file() else sorted(files_inside(source))
    ready = {f.parent for f in files if f.suffix == ".safetensors"}
    found = [
        f for f in files
        if f.suffix in PICKLED and not NOT_WEIGHTS.fullmatch(f.name) and f.parent not in ready
    ]  # fmt: skip
    if not found:
        raise Refused(f"{source.name} holds no weights in an old form.", "Nothing is to be done.")
    return found


def convert(source: Path, out: Path, say: Any = lambda **fields: None) -> Result:
    """Write `source` into the folder `out` as safetensors. Raises Refused, OSError."""
    pickles = pickles_of(source)
    result, parts = Result(), dict[Path, dict[Path, list[str]]]()
    tied = source.is_dir() and _says_tied(source)
    for number, pickle in enumerate(pickles):
        say(say="progress", done=number, total=len(pickles), file=pickle.name)
        target = out / (pickle.relative_to(source).parent if source.is_dir() else "")
        target = target / safe_name(pickle.name)
        if target in parts.get(target.parent, {}):
            raise Refused(
                f"{source.name} has its weights in several files that would get the name "
                f"{target.name}.",
                "Keep only one form of the model in the folder.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        names = _one(pickle, target, tied, result)
        parts.setdefault(target.parent, {})[target] = names
    for folder, written in parts.items():
        if len(written) > 1:
            _write_index(folder, written)
    if source.is_dir():
        _copy_small(source, out)
    check_path(out if source.is_dir() else next(iter(parts[out])))
    return result


def safe_name(name: str) -> str:
    """What the file is called as safetensors: pytorch_model-00001-of-00002.bin is
    model-00001-of-00002.safetensors, which is what transformers looks for."""
    stem = name.rpartition(".")[0]
    return re.sub(r"^pytorch_model", "model", stem) + ".safetensors"


def _one(pickle: Path, target: Path, tied: bool, result: Result) -> list[str]:
    from safetensors.torch import save_file

    loaded = _load(pickle)
    tensors, left_out = _tensors(loaded, pickle)
    metadata = {"format": "pt"}
    dropped = _untie(tensors, tied)
    save_file(tensors, target, metadata=metadata | dropped)
    result.left_out += left_out
    result.dropped |= dropped
    result.tensors += len(tensors)
    result.before += pickle.stat().st_size
    result.bytes += target.stat().st_size
    seen = [
        (name, list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()
    ]
    result.types.update(dtype for _, _, dtype in seen)
    result.largest = sorted(result.largest + seen, key=_count, reverse=True)[:LARGEST]
    return list(tensors)


def _load(pickle: Path) -> Any:
    import pickle as pickle_module

    import torch

    with pickle.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        return torch.load(pickle, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle_module.UnpicklingError as error:
        raise _hostile(pickle, str(error)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        raise Refused(
            f"{pickle.name} cannot be read: it is {what_it_is(pickle)}, damaged or not whole.",
            "Download it again, or take a safetensors or GGUF version of the model.",
        ) from None


def _hostile(pickle: Path, said: str) -> Refused:
    named = re.search(r"(?:GLOBAL|class|function|type) ([A-Za-z_][\w.]*\.[\w.]+)", said)
    what = f"it asks for {named[1].rstrip('.')}" if named else "not only numbers and names"
    return Refused(
        f"{pickle.name} holds more than weights ({what}) and could run code, so that it was not "
        "opened.",
        SAFE,
    )


def _tensors(loaded: Any, pickle: Path) -> tuple[dict[str, Any], int]:
    """The weights by name, and how many other entries there are."""
    import torch

    level = loaded
    for _ in range(3):  # a checkpoint of a training keeps them one or two levels down
        inner = [level[k] for k in INNER if isinstance(level, Mapping) and k in level]
        inner = [i for i in inner if isinstance(i, Mapping)]
        if not inner:
            break
        level = inner[0]
    entries = dict(level) if isinstance(level, Mapping) else {}
    tensors = {str(k): v for k, v in entries.items() if isinstance(v, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise Refused(f"The tensor {name[:60]} of {pickle.name} is of a special kind.", SAFE)
    if not tensors:
        raise Refused(
            f"{pickle.name} holds no weights.", "Choose the file with the model's weights."
        )
    return {name: t.detach() for name, t in tensors.items()}, len(entries) - len(tensors)


def _untie(tensors: dict[str, Any], tied: bool) -> dict[str, str]:
    """Give each tensor memory of its own; those that are one with another are dropped where the
    config says that the model ties them (as safetensors' save_model does), and copied where it does
    not: then nobody would put them back. Returns {dropped: kept}."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    dropped: dict[str, str] = {}
    for names in groups.values():
        names.sort(key=lambda name: (not any(e in name for e in EMBEDDINGS), name))
        kept: dict[Any, str] = {}
        for name in names:
            t = tensors[name]
            view = (t.storage_offset(), tuple(t.shape), t.stride(), t.dtype)
            if tied and view in kept:
                dropped[name] = kept[view]
                del tensors[name]
            else:
                kept.setdefault(view, name)
                if len(kept) > 1 or kept[view] != name:
                    tensors[name] = t.contiguous().clone()
    for name, tensor in tensors.items():
        tensors[name] = tensor.contiguous()
    return dropped


def _says_tied(folder: Path) -> bool:
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else None
    return isinstance(config, dict) and config.get("tie_word_embeddings") is True


def _write_index(folder: Path, written: Mapping[Path, list[str]]) -> None:
    places = {name: path.name for path, names in written.items() for name in names}
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", next(iter(written)).stem)
    if all(re.search(r"-\d{5}-of-\d{5}$", path.stem) for path in written):
        size = sum(path.stat().st_size for path in written)
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _copy_small(source: Path, out: Path) -> None:
    """Config and tokenizer; no code, no other weights, not the old index."""
    for file in files_inside(source):
        if file.suffix in SMALL and not file.name.endswith(".index.json"):
            target = out / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _count(entry: tuple[str, list[int], str]) -> int:
    total = 1
    for extent in entry[1]:
        total *= extent
    return total


# The process


def _limit(size: int) -> None:
    """Hard limits, where the system keeps them."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * os.sysconf("SC_PAGE_SIZE") + 3 * size + 2**31
        seconds = 300 + size // 20_000_000
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = 2 * size + HEADER_BYTES
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to the log

    def say(**fields: Any) -> None:
        lines.write(json.dumps(fields) + "\n")
        lines.flush()

    import safetensors.torch  # noqa: F401  before the doors are shut, since imports open much
    import torch

    torch.set_num_threads(1)
    _warm(torch)
    try:
        _limit(sum(pickle.stat().st_size for pickle in pickles_of(source)))
        shut_doors(writable=out)
        say(say="done", **convert(source, out, say).as_dict())
    except Refused as refused:
        say(say="failed", message=refused.message, hint=refused.hint)
    except MemoryError:
        say(say="failed", message=f"{source.name} needs more memory than it should.", hint=SAFE)
    except OSError as error:
        say(say="failed", **_disk(error, out))


def _disk(error: OSError, out: Path) -> dict[str, str]:
    if error.errno in FULL_DISK:
        message = f"The disk of {out.parent} is full."
        return {"message": message, "hint": "Free some space, then convert it again."}
    message = f"The conversion could not read or write a file ({error.strerror or error})."
    return {"message": message, "hint": "Check the folder, then convert it again."}


def _warm(torch: Any) -> None:
    """Modules that torch imports on its first load and save."""
    import io

    from safetensors.torch import save

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    buffer.seek(0)
    save(torch.load(buffer, weights_only=True))


if __name__ == "__main__":
    main()
