"""The files of a folder or a ZIP that holds pictures: their names, and their bytes when asked.

Nothing is unpacked onto the disk: a name in an archive is only compared and shown. The dataset
doctor's source.py knows what is hostile; it is imported where it is needed, since with it comes
numpy, which the page does without.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backends.base import Refused

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
WORDS = (".txt", ".jsonl")  # captions
MOST_BYTES = 100 * 2**20  # of one file: a larger one is no picture to learn from
MOST_FILES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One file. `key` is what `Opened.read` takes; `name` has forward slashes."""

    name: str
    size: int  # bytes, as it says itself
    key: Any

    @property
    def ending(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@dataclass(frozen=True)
class Opened:
    """The files of a dataset, sorted by name, while it is open."""

    path: Path
    entries: tuple[Entry, ...]
    archive: zipfile.ZipFile | None = None

    def pictures(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if e.ending in PICTURES)

    def open(self, entry: Entry) -> IO[bytes]:
        if self.archive is not None:
            return self.archive.open(entry.key)
        return Path(entry.key).open("rb")

    def read(self, entry: Entry) -> bytes:
        """All of a file. Raises OSError or zipfile's own errors where it is damaged, ValueError
        where it is too large."""
        with self.open(entry) as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES // 2**20} MB")
        return data


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The files of a folder or a ZIP. Raises Refused: not there, no ZIP, hostile, no picture."""
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(f"{path.name} is not there.", "Choose another file.") from error
    if path.is_dir():
        yield _checked(Opened(path, _of_folder(path)))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Refused(
            f"{path.name} is no ZIP that can be read.", "Choose a ZIP or a folder of pictures."
        ) from error
    with archive:
        yield _checked(Opened(path, _of_archive(path, archive), archive))


def sha256(path: Path) -> str:
    """Of a ZIP its own; of a folder that of a line for each picture and caption file, sorted by
    name: its sha256, two spaces, its name, as `sha256sum` writes it. Raises OSError, Refused."""
    from backends.finetune.data.source import file_sha256

    if not path.is_dir():
        return file_sha256(path, lambda: False)
    whole = hashlib.sha256()
    for entry in _of_folder(path.resolve()):
        digest = file_sha256(Path(entry.key), lambda: False)
        whole.update(f"{digest}  {entry.name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _of_folder(folder: Path) -> tuple[Entry, ...]:
    found = []
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.suffix.lower() not in PICTURES + WORDS or not file.is_file():
            continue
        if any(piece.startswith(".") for piece in name.split("/")):
            continue
        if not file.resolve().is_relative_to(folder):
            raise Refused(
                f"{name} is a link that leads out of its folder.", "Put the file itself there."
            )
        found.append(Entry(name, file.stat().st_size, str(file)))
    return tuple(sorted(found, key=lambda entry: entry.name))


def _of_archive(path: Path, archive: zipfile.ZipFile) -> tuple[Entry, ...]:
    from backends.finetune.data.source import IGNORED, bomb, refuse_hostile

    found, packed = [], 0
    for info in archive.infolist():
        refuse_hostile(path.name, info)
        packed += info.compress_size
        plain = not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) != stat.S_IFDIR
        system = any(info.filename.startswith(i) or info.filename.endswith(i) for i in IGNORED)
        if plain and not system:
            found.append(Entry(info.filename, info.file_size, info))
    if packed > path.stat().st_size:  # entries that share their bytes
        raise bomb(path.name)
    kept = [e for e in found if e.ending in PICTURES + WORDS]
    return tuple(sorted(kept, key=lambda entry: entry.name))


def _checked(found: Opened) -> Opened:
    name, count = found.path.name, len(found.pictures())
    if not count:
        raise Refused(
            f"{name} has no picture in it.", "Put PNG, JPEG, WebP, BMP, GIF or TIFF files in it."
        )
    if count > MOST_FILES:
        raise Refused(f"{name} has {count:,} pictures.", f"Take at most {MOST_FILES:,}.")
    return found
