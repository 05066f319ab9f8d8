"""The texts in a PNG, a JPEG or a WebP, found block by block without decoding a pixel.

Formats: JPEG (ITU T.81, annex B), WebP (its RIFF container), TIFF 6.0 for EXIF, and XMP as a text
in which a few fields are looked for: an XML parser is more than a stranger's file needs.
"""

from __future__ import annotations

import html
import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from backends.image.png_text import TEXT_BYTES, as_text, read_png

MOST_BLOCKS = 10_000
MOST_FIELDS = 500  # of an EXIF directory
EXIF_FOLDER, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
NAMED = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software",
         USER_COMMENT: "UserComment", MAKER_NOTE: "MakerNote"}  # fmt: skip
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 9: 4, 10: 8}  # bytes of each kind of field
XMP = b"http://ns.adobe.com/xap/1.0/\0"
FIELD = re.compile(
    r"<(exif:UserComment|dc:description)\b[^>]{0,200}>\s{0,100}(?:<rdf:\w{1,10}[^>]{0,200}>\s{0,100}){0,5}"
    r"([^<]{1,200000})"
)
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass
class Texts:
    """What stands in a picture beside its pixels. `width` and `height` are in px, 0 for unknown."""

    kind: str
    width: int = 0
    height: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    too_long: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        if text.strip("\0 \n"):
            self.texts.setdefault(name, text.strip("\0"))


def texts_of(data: bytes) -> Texts | None:
    """None for what is none of the three. Never raises."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    found = read_png(io.BytesIO(data))
    if found is None:
        return None
    made = Texts("PNG", found.width, found.height, found.texts, found.too_long)
    _exif(found.exif, made)
    if "XML:com.adobe.xmp" in made.texts:
        _xmp(made.texts.pop("XML:com.adobe.xmp"), made)
    return made


def _jpeg(data: bytes) -> Texts:
    made, at = Texts("JPEG"), 2
    for _ in range(MOST_BLOCKS):
        while data[at : at + 2] == b"\xff\xff":  # padding
            at += 1
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):
            break
        length = int.from_bytes(head[2:], "big")
        block = data[at + 4 : at + 2 + length]
        if head[1] == 0xE1 and block.startswith(b"Exif\0\0"):
            _exif(block[6:], made)
        elif head[1] == 0xE1 and block.startswith(XMP):
            _xmp(as_text(block[len(XMP) :]), made)
        elif head[1] == 0xFE:
            made.add("Comment", as_text(block))
        elif head[1] in FRAMES and len(block) >= 5:
            made.height, made.width = struct.unpack(">HH", block[1:5])
        at += 2 + max(2, length)
    return made


def _webp(data: bytes) -> Texts:
    made, at = Texts("WebP"), 12
    for _ in range(MOST_BLOCKS):
        head = data[at : at + 8]
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        block = data[at + 8 : at + 8 + min(length, TEXT_BYTES)]
        if kind == b"VP8X" and len(block) >= 10:
            made.width = 1 + int.from_bytes(block[4:7], "little")
            made.height = 1 + int.from_bytes(block[7:10], "little")
        elif kind == b"VP8 " and len(block) >= 10 and not made.width:
            width, height = struct.unpack("<HH", block[6:10])
            made.width, made.height = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and len(block) >= 5 and not made.width:
            bits = int.from_bytes(block[1:5], "little")
            made.width, made.height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"EXIF":
            _exif(block.removeprefix(b"Exif\0\0"), made)
        elif kind == b"XMP ":
            _xmp(as_text(block), made)
        at += 8 + length + (length & 1)
    return made


def _exif(data: bytes, made: Texts) -> None:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    (first,) = struct.unpack(order + "I", data[4:8])
    inner = 0
    for tag, value in _fields(data, first, order):
        if tag == EXIF_FOLDER and len(value) == 4:
            (inner,) = struct.unpack(order + "I", value)
        elif tag in NAMED:  # Fooocus has its comment here, too
            made.add(NAMED[tag], _comment(value) if tag == USER_COMMENT else as_text(value))
    for tag, value in _fields(data, inner, order) if inner else ():
        if tag in NAMED:
            made.add(NAMED[tag], _comment(value) if tag == USER_COMMENT else as_text(value))


def _fields(data: bytes, at: int, order: str) -> Iterator[tuple[int, bytes]]:
    """The fields of one directory that are of use, each with its bytes."""
    if at + 2 > len(data):
        return
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    for number in range(min(count, MOST_FIELDS)):
        entry = data[at + 2 + 12 * number : at + 14 + 12 * number]
        if len(entry) < 12:
            return
        tag, kind, length = struct.unpack(order + "HHI", entry[:8])
        size = SIZES.get(kind, 1) * length
        value = entry[8 : 8 + size]
        if size > 4:
            (start,) = struct.unpack(order + "I", entry[8:])
            value = data[start : start + min(size, TEXT_BYTES)] if tag in NAMED else b""
        yield tag, value


def _comment(value: bytes) -> str:
    """A UserComment: eight bytes say how it is written, and not every program keeps to that."""
    code, text = value[:8], value[8:]
    if not code.startswith(b"UNICODE"):
        return as_text(text if code.strip(b"\0") in (b"", b"ASCII") else value)
    # Of plain letters every other byte is 0: which one says the order.
    little = text[1:2000:2].count(0) > text[0:2000:2].count(0)
    return text.decode("utf-16-le" if little else "utf-16-be", "replace")


def _xmp(text: str, made: Texts) -> None:
    for name, said in FIELD.findall(text[:TEXT_BYTES]):
        made.add(name.partition(":")[2].replace("description", "Description"), html.unescape(said))
