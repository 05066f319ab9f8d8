"""The texts in a PNG, and its size, chunk by chunk: no pixel is ever decoded.

The format is W3C's "Portable Network Graphics (Third Edition)", sections 5 and 11.3. Whatever a
file says about lengths is checked against what may be read, so that a hostile one costs little.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_BYTES = 4 * 2**20  # of one text, unpacked; ComfyUI's largest graphs have about 1 MB
ALL_BYTES = 4 * TEXT_BYTES
MOST_CHUNKS = 100_000  # 64 MB of pixels in pieces of 8 kB are 8,000


@dataclass
class PngText:
    """width, height   px; 0 where the file does not say
    texts           by keyword, the first one of each
    exif            the eXIf chunk as it is
    too_long        keywords of texts that were left out
    """

    width: int = 0
    height: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    exif: bytes = b""
    too_long: list[str] = field(default_factory=list)


def read_png(file: BinaryIO, *, before_pixels: bool = False) -> PngText | None:
    """What stands in the open file; None for what is no PNG. Never raises for what is wrong in it.

    before_pixels: stop where the pixels begin, which is behind all that Werkbank itself writes.
    """
    if file.read(8) != SIGNATURE:
        return None
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    found, taken = PngText(), 0
    for _ in range(MOST_CHUNKS):
        file.seek(here)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or (kind == b"IDAT" and before_pixels) or here + 8 + length > end:
            break
        if kind in (b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            if length > TEXT_BYTES + 1000 or taken > ALL_BYTES:
                _leave_out(found, file.read(80))
            else:
                taken += _take(found, kind, file.read(length))
        here += 12 + length
    return found


def _take(found: PngText, kind: bytes, data: bytes) -> int:
    """Returns how many bytes there were to keep."""
    if kind == b"IHDR":
        if len(data) >= 8:
            found.width, found.height = struct.unpack(">II", data[:8])
        return 0
    if kind == b"eXIf":
        found.exif = found.exif or data
        return len(data)
    key, _, rest = data.partition(b"\0")
    keyword = key[:80].decode("latin-1")
    text: bytes | None = rest
    if kind == b"zTXt":
        text = unpacked(rest[1:])
    elif kind == b"iTXt":
        packed, (_, _, text) = rest[:1] == b"\1", _split(rest[2:])
        text = unpacked(text) if packed else text
    if text is None or len(text) > TEXT_BYTES:
        _leave_out(found, key)
        return TEXT_BYTES
    found.texts.setdefault(keyword, as_text(text))
    return len(text)


def unpacked(data: bytes, most: int = TEXT_BYTES) -> bytes | None:
    """What zlib packed; as far as it goes where it is cut short, None where it is over `most`."""
    try:
        text = zlib.decompressobj().decompress(data, most + 1)
    except zlib.error:
        return b""
    return None if len(text) > most else text


def as_text(data: bytes) -> str:
    """UTF-8, else Latin-1: the format wants Latin-1 in tEXt, and many programs do not know."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Language, translated keyword, text."""
    language, _, rest = data.partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    return language, translated, text


def _leave_out(found: PngText, key: bytes) -> None:
    if len(found.too_long) < 20:
        found.too_long.append(key.partition(b"\0")[0][:80].decode("latin-1"))
