"""A safetensors copy of a GGUF model: made once, kept in the cache under the hash of its source.

transformers can open a GGUF, but takes 15 to 20 seconds each time; the copy opens in half a
second. The weights are dequantised to fp32, which holds every value of the GGUF exactly.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.events import Event, Progress
from backends.models.gguf_header import read_header

VERSION = 1  # part of the folder's name: raise it when the copy is made differently
MANIFEST = "MANIFEST.json"  # written last: a folder without one is not a model
OVERHEAD_BYTES = 50_000_000  # tokenizer, config, and a little air
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STEPS = ("reading the tokenizer", "unpacking the weights", "writing the copy")


def folder_of(gguf: Path, cache: Path) -> Path:
    """Where the copy of `gguf` lies, or will lie."""
    status = gguf.stat()
    digest = _sha256(gguf, status.st_size, status.st_mtime_ns)
    return cache / "converted" / f"{digest[:32]}-v{VERSION}"


@lru_cache(maxsize=20)
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Whether the copy was finished and none of its files has changed its size since."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def ensure(
    gguf: Path,
    cache: Path,
    report: Callable[[Event], None],
    cancelled: Callable[[], bool],
) -> Path:
    """The copy's folder, made now where it is not there. Raises Refused where it cannot be made.

    Several processes may ask at once: one makes it, the others wait for it.
    """
    import filelock

    folder = folder_of(gguf, cache)
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(filelock, folder, report, cancelled):
            if not is_whole(folder):
                _make(gguf, folder, report, cancelled)
    except Exception as error:
        sentence = _as_sentence(error, cache)
        if sentence is None:
            raise
        raise sentence from error
    return folder


@contextmanager
def _only_one(
    filelock: Any, folder: Path, report: Callable[[Event], None], cancelled: Callable[[], bool]
) -> Iterator[None]:
    """Hold the copy's lock, which the system takes back from a process that dies."""
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    while not lock.is_locked:
        _stop_if(cancelled)
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            report(Progress(0, 0, "another process is making the safetensors copy"))
    try:
        yield
    finally:
        lock.release()


def _make(
    gguf: Path, folder: Path, report: Callable[[Event], None], cancelled: Callable[[], bool]
) -> None:
    need = 4 * read_header(gguf).parameters + OVERHEAD_BYTES
    free = shutil.disk_usage(folder.parent).free
    if free < need:
        raise _no_room(folder.parent.parent, f"{need // 10**6:,} MB, and {free // 10**6:,} MB are")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died: the lock is ours
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for step, _ in enumerate(_convert(gguf, partial)):
            _stop_if(cancelled)
            report(Progress(step, len(STEPS), f"{STEPS[step]} (once, about 20 seconds in all)"))
        _write_manifest(partial, gguf)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _convert(gguf: Path, folder: Path) -> Iterator[None]:
    """Dequantise and save. Yields before each of STEPS."""
    import torch
    import transformers

    where = {
        "pretrained_model_name_or_path": gguf.parent,
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    yield
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    yield
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are plain numbers now, but the model still says that it is a GGUF, and
    # save_pretrained refuses those.
    model.hf_quantizer = None
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    yield
    model.save_pretrained(folder)


def _write_manifest(folder: Path, gguf: Path) -> None:
    content = {
        "made_from": gguf.name,
        "files": {f.name: f.stat().st_size for f in sorted(folder.iterdir())},
    }
    file = folder / MANIFEST
    file.write_text(json.dumps(content, indent=1))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Refused("Making the safetensors copy was stopped.", "Load the model again to go on.")


def _as_sentence(error: Exception, cache: Path) -> Refused | None:
    """A full or write-protected disk, said as what it is; None for anything else."""
    number = getattr(error, "errno", None)
    text = str(error)  # the safetensors library puts the number into its own error's text
    full = number in FULL_DISK or any(f"os error {n}" in text for n in FULL_DISK)
    if full:
        return _no_room(cache, "about 600 MB, more than is")
    if isinstance(error, OSError) and number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(
            f"The cache folder {cache} cannot be written ({error.strerror}).",
            "Make it writable, or set WERKBANK_CACHE to another folder.",
        )
    return None


def _no_room(cache: Path, numbers: str) -> Refused:
    return Refused(
        f"The safetensors copy needs {numbers} free in {cache}.",
        "Free some space, or set WERKBANK_CACHE to a folder on another disk.",
    )
