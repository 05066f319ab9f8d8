"""The parts of a dataset: one file, the files of a folder, or those in a ZIP, as streams of bytes.

Nothing is unpacked onto the disk by name: a name in an archive is only shown. What an archive
claims about its sizes is not believed; bytes are counted while they are read.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backends.base import Refused
from backends.documents.kinds import INSIDE
from backends.finetune.data.rows import Stopped
from backends.models import library

RATIO = 100  # bytes out for one byte in, beyond which a ZIP is taken for a bomb
SLACK = 2**20  # bytes that a small and repetitive entry may have all the same
SEEKABLE = 2**31  # bytes of one Parquet file in a ZIP, which has to be copied to be read
PIECE = 16 * 1024  # bytes unpacked at once: so many are lost where an entry is damaged
MAX_PARTS = 2_000
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".markdown")
IGNORED = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # of the system, in archives
# What stands beside the data on a hub, and what write() puts there.
ABOUT = ("readme", "license", "dataset_infos.json", "dataset_info.json")
ABOUT_ENDINGS = (".manifest.json", ".gitattributes")


@dataclass(frozen=True)
class Part:
    """One file. `name` is shown only; `open` gives a new stream each time, from its start.

    `position` says how many bytes of `size` a stream that `open` gave has used.
    """

    name: str
    size: int  # bytes as they lie on the disk
    open: Callable[[], BinaryIO]
    position: Callable[[BinaryIO], int]
    path: Path | None = None  # where it is a file of its own

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """A stream that can be read in any order; out of a ZIP, a nameless copy."""
        with self.open() as stream:
            if self.path is not None:
                yield stream
                return
            with tempfile.TemporaryFile(prefix="werkbank-") as copy:
                while chunk := stream.read(2**20):
                    copy.write(chunk)
                    if copy.tell() > SEEKABLE:
                        raise Refused(
                            f"{self.name} is a Parquet file of more than 2 GB inside a ZIP.",
                            "Unpack the ZIP and choose the folder.",
                        )
                copy.seek(0)
                yield copy


@dataclass(frozen=True)
class Source:
    """What a path holds. `left_out`: names of files that are of no kind read here."""

    path: Path
    parts: tuple[Part, ...]
    left_out: tuple[str, ...] = ()
    several: bool = False  # parts are told by their names
    stamp: tuple[tuple[int, int], ...] = ()  # size and mtime of each file
    allowed: tuple[Path, ...] = ()  # folders that it must lie in

    def again(self) -> Source:
        """As it is now. Raises Refused."""
        return find(self.path, self.allowed)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def find(path: Path, allowed: Sequence[Path] = ()) -> Source:
    """The parts of a path. `allowed`: folders that it must lie in, links followed; () for any.

    Raises Refused: not there, elsewhere, no file, empty, an archive that is none or is hostile.
    """
    name = path.name or str(path)
    try:
        real = path.resolve(strict=True)
        info = real.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(f"{name} is not there.", "Choose another file.") from error
    _check_place(name, real, allowed)
    if stat.S_ISDIR(info.st_mode):
        return replace(_folder(real, allowed or (real,)), allowed=tuple(allowed))
    if not stat.S_ISREG(info.st_mode):
        raise Refused(f"{name} is no file.", "Choose a file or a folder.")
    if not info.st_size:
        raise Refused(f"{name} is empty.", "Choose a file with rows in it.")
    try:
        with real.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise Refused(f"{name} cannot be read.", "Check its permissions.") from error
    stamp = ((info.st_size, info.st_mtime_ns),)
    if head == b"PK\x03\x04":
        return replace(_archive(real, stamp), allowed=tuple(allowed))
    if head == b"PK\x05\x06":
        raise Refused(f"{name} is an empty ZIP.", "Choose one with a dataset in it.")
    return Source(
        real, (_file_part(path.name, real, info.st_size),), (), False, stamp, tuple(allowed)
    )


def places_of(path: Path) -> tuple[Path, ...]:
    """Where the files of one of the owner's datasets may lie, for `find`: anywhere where it is a
    file; of a folder in it, or in the hub's cache, where the links lead of one that came from
    there."""
    return (path, library.hub_cache()) if path.is_dir() else ()


def sha256_of(source: Source, cancelled: Callable[[], bool] = lambda: False) -> str:
    """Of a file its own; of a folder that of a line for each part, sorted by name: its sha256, two
    spaces, its name, as `sha256sum` writes it. Raises OSError, Stopped."""
    if not source.path.is_dir():
        return file_sha256(source.path, cancelled)
    whole = hashlib.sha256()
    for name, path in sorted((part.name, part.path or source.path) for part in source.parts):
        whole.update(f"{file_sha256(path, cancelled)}  {name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def file_sha256(path: Path, cancelled: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            if cancelled():
                raise Stopped
            digest.update(chunk)
    return digest.hexdigest()


def _check_place(name: str, real: Path, allowed: Sequence[Path]) -> None:
    if allowed and not any(real.is_relative_to(Path(os.path.realpath(a))) for a in allowed):
        raise Refused(
            f"{name} does not lie in a folder that Werkbank may read.",
            "Copy it into the datasets folder.",
        )


def _file_part(name: str, path: Path, size: int) -> Part:
    return Part(name, size, lambda: path.open("rb"), lambda stream: stream.tell(), path)


def is_about(name: str) -> bool:
    last = name.rsplit("/", 1)[-1].lower()
    return last.startswith(ABOUT) or last.endswith(ABOUT_ENDINGS)


def _folder(folder: Path, allowed: Sequence[Path]) -> Source:
    parts, left_out, stamp = [], [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or any(piece.startswith(".") for piece in name.split("/")):
            continue
        if path.suffix.lower() not in ENDINGS or is_about(name):
            left_out.append(name)
            continue
        try:
            real = path.resolve(strict=True)
            info = real.stat()
        except (OSError, RuntimeError) as error:
            raise Refused(
                f"{name} is a link to something that is not there.",
                "Remove it; where it came from the hub, get the dataset again.",
            ) from error
        _check_place(name, real, allowed)
        if not stat.S_ISREG(info.st_mode) or not info.st_size:
            left_out.append(name)
            continue
        parts.append(_file_part(name, real, info.st_size))
        stamp.append((info.st_size, info.st_mtime_ns))
    return _checked(Source(folder, tuple(parts), tuple(left_out), True, tuple(stamp)))


def _checked(source: Source) -> Source:
    if not source.parts:
        raise Refused(
            f"{source.path.name} has no file in it that can be a dataset.",
            "Put JSON, JSONL, CSV, TSV, Parquet, TXT or Markdown in it.",
        )
    if len(source.parts) > MAX_PARTS:
        raise Refused(
            f"{source.path.name} has {len(source.parts):,} files, more than {MAX_PARTS:,}.",
            "Join them into fewer.",
        )
    return source


def _archive(path: Path, stamp: tuple[tuple[int, int], ...]) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError) as error:
        raise Refused(f"{path.name} is a damaged ZIP.", "Pack it again.") from error
    names = [info.filename for info in infos]
    for inside, what, _ in INSIDE:
        if any(name == inside or name.endswith(inside) for name in names):
            raise Refused(f"{path.name} is {what}.", "Save its table as CSV and choose that.")
    parts, left_out = [], []
    for info in infos:
        refuse_hostile(path.name, info)
        name = info.filename
        if info.is_dir() or any(name.startswith(i) or name.endswith(i) for i in IGNORED):
            continue
        if PurePosixPath(name).suffix.lower() not in ENDINGS or is_about(name):
            left_out.append(name)
        elif info.file_size:
            parts.append(_zip_part(path, info))
    if sum(info.compress_size for info in infos) > stamp[0][0]:
        raise bomb(path.name)  # entries that share their bytes
    parts.sort(key=lambda part: part.name)
    return _checked(Source(path, tuple(parts), tuple(left_out), len(parts) > 1, stamp))


def refuse_hostile(archive: str, info: zipfile.ZipInfo) -> None:
    """A name that would leave the folder, a link, a password, or a size that only a bomb has."""
    # orig_filename: zipfile cuts names at NUL and turns backslashes around on Windows.
    name = info.orig_filename.replace("\\", "/")
    leaves = name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]
    if leaves or "\0" in name:
        raise Refused(
            f"{archive} has an entry named {name[:80]!r}, which would leave its folder.",
            "Do not trust this archive. Pack its files again yourself.",
        )
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(
            f"{archive} has an entry {name[:80]!r} that is a link, not a file.",
            "Pack the file itself.",
        )
    if info.flag_bits & 1:
        raise Refused(f"{archive} is protected by a password.", "Unpack it and choose the files.")
    if info.file_size > SLACK + RATIO * info.compress_size:
        raise bomb(archive)


def bomb(name: str) -> Refused:
    return Refused(
        f"{name} unpacks to more than {RATIO} times its size, so it was not read.",
        "If it really is a dataset, unpack it and choose the folder.",
    )


def _zip_part(path: Path, info: zipfile.ZipInfo) -> Part:
    def opened() -> BinaryIO:
        return io.BufferedReader(_Unpacked(path, info), 256 * 1024)

    def position(stream: BinaryIO) -> int:
        raw = stream.raw if isinstance(stream, io.BufferedReader) else None
        assert isinstance(raw, _Unpacked)
        return int(raw.count * info.compress_size / max(info.file_size, 1))

    return Part(info.filename, info.compress_size, opened, position)


class _Unpacked(io.RawIOBase):
    """An entry of a ZIP as it unpacks, counted. Raises Refused where it turns out to be a bomb."""

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
            self.entry = self.archive.open(info)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise Refused(
                f"{info.filename} in {path.name} cannot be unpacked.", "Pack the ZIP again."
            ) from error
        self.name, self.count = path.name, 0
        self.most = SLACK + RATIO * info.compress_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.entry.read(min(len(buffer), PIECE))
        self.count += len(data)
        if self.count > self.most:
            raise bomb(self.name)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.entry.close()
            self.archive.close()
        super().close()
