"""What of a training from nothing travels between two machines: few files, none above 15 MiB.

A finished job leaves its model as it is. Of an unfinished one a slim checkpoint travels: the
averaged weights in fp16, from which it then goes on (they are the better ones), AdamW's second
moment as the logarithm in 8 bits; the first moment is left out, since ten steps make it again. A
resume from it is no bit-identical one, as it is from a whole checkpoint on one machine.

MODEL or SLIM.tar.gz.0, .1 …   the parts;   curve.tar.gz   metrics.jsonl, log, the last samples
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.runtime import checkpoints

PART = 15 * 2**20  # bytes
MODEL, SLIM = "model.tar.gz", "checkpoint.tar.gz"
LEVELS = 254  # of the 8 bits: 0 stands for 0


def leave(job: Path, out: Path) -> None:
    """What travels of a job, into `out`; the sizes are printed."""
    out.mkdir(parents=True, exist_ok=True)
    if (job / "model").is_dir():
        parts = split(packed([job / "model"]), out, MODEL)
    else:
        found = checkpoints.newest(job / "checkpoints")
        if found is None:
            print("There is no checkpoint yet, so nothing travels.", flush=True)
            return
        slim = job / "slim" / found.name
        slimmed(found, slim)
        parts = split(packed([slim]), out, SLIM)
    samples = sorted((job / "samples").glob("*.png"), key=lambda f: f.stat().st_mtime)[-4:]
    curve = [job / n for n in ("metrics.jsonl", "events.jsonl", "log.txt", "exit.json")]
    split(packed([f for f in curve + samples if f.exists()]), out, "curve.tar.gz")
    print("left: " + ", ".join(f"{p.name} {p.stat().st_size / 2**20:.1f} MiB" for p in parts),
          flush=True)  # fmt: skip


def packed(paths: Iterable[Path]) -> bytes:
    """A compressed tar of files and folders, each under its own name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path in paths:
            archive.add(path, path.name)
    return buffer.getvalue()


def split(data: bytes, out: Path, name: str) -> list[Path]:
    """The bytes as files NAME.0, NAME.1 …; what lay there under that name goes."""
    for old in out.glob(f"{name}.*"):
        old.unlink()
    made = []
    for number, start in enumerate(range(0, len(data), PART)):
        file = out / f"{name}.{number}"
        file.write_bytes(data[start : start + PART])
        made.append(file)
    return made


def unpack(source: Path, destination: Path) -> Path:
    """The folder that was packed, below `destination`. Raises Refused where nothing is there."""
    for name in (MODEL, SLIM):
        parts = sorted(source.glob(f"{name}.*"), key=lambda p: int(p.suffix[1:]))
        if parts:
            data = b"".join(p.read_bytes() for p in parts)
            shutil.rmtree(destination, ignore_errors=True)
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(destination, filter="data")
            return next(p for p in destination.iterdir() if p.is_dir())
    raise Refused(f"{source} holds neither a model nor a checkpoint.", "Name what --out received.")


def slimmed(found: Path, slim: Path) -> None:
    """The slim copy of a checkpoint."""
    import safetensors.torch

    shutil.rmtree(slim, ignore_errors=True)
    shutil.copytree(found, slim, ignore=shutil.ignore_patterns(
        "*.weights.safetensors", "*.optimizer.safetensors", "*.average.safetensors", "done",
        checkpoints.MANIFEST))  # fmt: skip
    for file in [*found.glob("*.average.safetensors"), *found.glob("done/*.safetensors")]:
        half = {k: v.half() if v.is_floating_point() else v
                for k, v in safetensors.torch.load_file(file).items()}  # fmt: skip
        to = slim / file.relative_to(found)
        to.parent.mkdir(exist_ok=True)
        safetensors.torch.save_file(half, to)
    for file in found.glob("*.optimizer.safetensors"):
        moments = safetensors.torch.load_file(file)
        kept: dict[str, Any] = {}
        for key, value in moments.items():
            if key.endswith(".exp_avg_sq"):
                kept |= eight_bits(key, value)
            elif key.endswith(".step"):
                kept[key] = value
        safetensors.torch.save_file(kept, slim / file.name)


def fattened(slim: Path, job: Path) -> Path:
    """A whole checkpoint in `job` of a slim one, sealed. Returns its folder."""
    import safetensors.torch
    import torch

    folder = job / "checkpoints" / slim.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(slim, folder, ignore=shutil.ignore_patterns("*.optimizer.safetensors"))
    for file in [*slim.glob("*.average.safetensors"), *slim.glob("done/*.safetensors")]:
        whole = {k: v.float() if v.is_floating_point() else v
                 for k, v in safetensors.torch.load_file(file).items()}  # fmt: skip
        safetensors.torch.save_file(whole, folder / file.relative_to(slim))
        if file.parent == slim:
            weights = file.name.replace(".average.", ".weights.")
            safetensors.torch.save_file(whole, folder / weights)
    for file in slim.glob("*.optimizer.safetensors"):
        kept = safetensors.torch.load_file(file)
        moments = {}
        for key, value in kept.items():
            if key.endswith(".exp_avg_sq"):
                moments[key] = from_eight_bits(value, kept[f"{key}.range"])
                moments[key.removesuffix("_sq")] = torch.zeros_like(moments[key])
            elif key.endswith(".step"):
                moments[key] = value
        safetensors.torch.save_file(moments, folder / file.name)
    checkpoints.seal(folder)
    return folder


def eight_bits(key: str, value: Any) -> dict[str, Any]:
    """A tensor of numbers >= 0 as uint8 levels of its logarithm, and that logarithm's range."""
    import torch

    some = value > 0
    logs = torch.where(some, value, torch.ones_like(value)).log()
    low = logs[some].min() if some.any() else logs.new_zeros(())
    high = logs[some].max() if some.any() else logs.new_zeros(())
    levels = ((logs - low) / (high - low).clamp_min(1e-12) * LEVELS).round().clamp(0, LEVELS) + 1
    return {key: torch.where(some, levels, torch.zeros_like(levels)).byte(),
            f"{key}.range": torch.stack([low, high])}  # fmt: skip


def from_eight_bits(levels: Any, span: Any) -> Any:
    """What `eight_bits` was given, within half a level."""
    import torch

    low, high = span
    value = ((levels.float() - 1) / LEVELS * (high - low) + low).exp()
    return torch.where(levels > 0, value, torch.zeros_like(value))
