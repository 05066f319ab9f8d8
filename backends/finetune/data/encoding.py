"""Bytes to text: which encoding it is, how sure that is, and lines of it.

A guess is told, never silent, and can be overruled. What does not decode is reported by its line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from backends.base import Refused
from backends.documents.text import BOMS
from backends.finetune.data.rows import MAX_ROW

CHUNK = 256 * 1024  # bytes read at once
SAMPLE = 256 * 1024  # bytes that a guess is made from
SEARCHED = 64 * 2**20  # bytes in which the first letter beyond ASCII is looked for
NAMES = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8 with a byte-order mark",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 (little-endian)",
    "utf-16-be": "UTF-16 (big-endian)",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252 (Western European)",
    "cp1250": "Windows-1250 (Central European)",
    "cp1251": "Windows-1251 (Cyrillic)",
    "koi8_r": "KOI8-R (Cyrillic)",
    "gb18030": "GB 18030 (Chinese)",
    "big5": "Big5 (Chinese)",
    "shift_jis": "Shift JIS (Japanese)",
    "euc_jp": "EUC-JP (Japanese)",
    "euc_kr": "EUC-KR (Korean)",
    "latin-1": "Latin-1",
}
WIDE = ("utf-16", "utf-32")  # a line end is more than one byte there
ESCAPED = re.compile("[\udc80-\udcff]")  # what surrogateescape leaves of a wrong byte
WESTERN = ("äöüÄÖÜßéèêëàâáåãçíìîïóòôõúùûñøæœÅØÆÉÀÇÑÁ€„“”‚‘’–—…«»°§¿¡®©²µ·").encode("cp1252")
_HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Encoding:
    """`name` as Python knows it; `certain` unless guessed. `mac`: lines end with CR alone."""

    name: str
    certain: bool = True
    mac: bool = False

    @property
    def title(self) -> str:
        return NAMES.get(self.name, self.name)

    @property
    def wide(self) -> bool:
        return self.name.startswith(WIDE)

    def decoder(self) -> codecs.IncrementalDecoder:
        """Wrong bytes come out as `ESCAPED`, or as U+FFFD where the encoding is wide."""
        errors = "replace" if self.wide else "surrogateescape"
        return codecs.getincrementaldecoder(self.name)(errors)


def chosen(name: str) -> Encoding:
    """An encoding by its name. Raises Refused for one that Python does not know, or no text."""
    try:
        if not isinstance(b"a".decode(codecs.lookup(name).name, "replace"), str):
            raise LookupError
    except (LookupError, UnicodeError, ValueError) as error:
        raise Refused(
            f"There is no text encoding named {name[:40]!r}.", "Choose one from the list."
        ) from error
    canonical = codecs.lookup(name).name
    known = {codecs.lookup(ours).name: ours for ours in NAMES}
    return Encoding(known.get(canonical, canonical))


def guess(file: BinaryIO) -> Encoding | None:
    """The encoding of a stream that is read from its start; None where it is no text.

    Looks at its first 256 kB, or further on where those are plain ASCII.
    """
    sample = file.read(SAMPLE)
    mac = b"\r" in sample and b"\n" not in sample
    found = _guess(sample)
    read = len(sample)
    while found and found.name == "utf-8" and sample.isascii() and read < SEARCHED:
        sample = file.read(SAMPLE)
        read += len(sample)
        if not sample:
            break
        if not sample.isascii():
            start = next(i for i, byte in enumerate(sample) if byte > 127)
            found = _guess(sample[start:] + file.read(4)) or found
            if found.wide or found.name == "utf-8-sig":  # a mark in the middle is none
                found = Encoding("utf-8")
    return Encoding(found.name, found.certain, mac) if found else None


def _guess(sample: bytes) -> Encoding | None:
    for bom, name in BOMS:
        if sample.startswith(bom):
            return Encoding(name)
    if b"\0" in sample:
        return _without_mark(sample)
    if _decodes(sample, "utf-8"):
        return Encoding("utf-8")
    text = sample.decode("utf-8", "replace")
    wrong = text.count("\N{REPLACEMENT CHARACTER}")
    if sum(byte >= 0xC2 for byte in sample) - wrong > 4 * wrong:
        return Encoding("utf-8", certain=False)  # UTF-8 with a wrong byte here and there
    if _is_chinese(sample):
        return Encoding("gb18030", certain=False)
    name = "cp1252" if _is_western(sample) else _best(sample) or ""
    if not name:
        name = "cp1252" if _decodes(sample, "cp1252") else "latin-1"
    return Encoding(name, certain=False)


def _without_mark(sample: bytes) -> Encoding | None:
    """UTF-16 without a byte-order mark has its NULs on one side; what has them on both is no text.

    A few NULs in a text that is else UTF-8 are left to the checks.
    """
    odd, even = sample[1::2].count(0), sample[::2].count(0)
    pairs = len(sample) // 2 or 1
    name = "utf-16-le" if odd > even else "utf-16-be"
    if max(odd, even) > 0.02 * pairs and max(odd, even) > 20 * min(odd, even):
        if _decodes(sample[: len(sample) // 2 * 2], name):
            return Encoding(name, certain=False)
    few = odd + even <= 0.01 * len(sample)
    return Encoding("utf-8", certain=False) if few and _decodes(sample, "utf-8") else None


def _decodes(sample: bytes, name: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)  # its end may be cut
    except UnicodeDecodeError:
        return False
    strays = sum(text.count(chr(n)) for n in range(1, 32) if n not in (9, 10, 11, 12, 13, 27))
    return strays <= 0.01 * len(text)


def _is_chinese(sample: bytes) -> bool:
    """Whether nearly all beyond ASCII is common Han when read as GBK.

    Western text read so gives a rare one at each umlaut, with an ASCII letter eaten by it.
    """
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(sample)
    except UnicodeDecodeError:
        return False
    beyond = [c for c in text if ord(c) > 127]
    common = 0
    for c in _HAN.findall(text):
        raw = c.encode("gb18030")
        common += len(raw) == 2 and 0xB0 <= raw[0] <= 0xD7 and raw[1] >= 0xA1
    return len(beyond) > 1 and common >= 0.6 * len(beyond)


def _is_western(sample: bytes) -> bool:
    """Whether the bytes beyond ASCII are few, and nearly all letters or quotes of the West."""
    beyond = sample.translate(None, bytes(range(128)))
    letters = sum(65 <= byte & 0xDF <= 90 for byte in sample)
    strange = beyond.translate(None, WESTERN)
    return len(beyond) <= 2 + 0.3 * letters and len(strange) <= 0.05 * len(beyond)


def _best(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    names = [n for n in NAMES if not n.startswith(("utf", "latin"))]
    best = from_bytes(sample[:65536], cp_isolation=names, enable_fallback=False).best()
    return best.encoding if best and best.encoding in names else None


# number from 1, text without its line end, "" or the kind of fault that the line has
Line = tuple[int, str, str]


def lines(file: BinaryIO, encoding: Encoding) -> Iterator[Line]:
    """The lines of a stream. One that is longer than `MAX_ROW` comes empty, as "too_long"."""
    if encoding.wide or encoding.mac:
        yield from _decoded_lines(file, encoding)
        return
    name = "utf-8" if encoding.name == "utf-8-sig" else encoding.name
    number = 0
    while raw := file.readline(MAX_ROW + 1):
        number += 1
        if number == 1 and name == "utf-8" and raw.startswith(codecs.BOM_UTF8):
            raw = raw[3:]
        if len(raw) > MAX_ROW:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_ROW)
            yield number, "", "too_long"
            continue
        raw = raw.rstrip(b"\r\n")
        try:
            yield number, raw.decode(name), ""
        except UnicodeDecodeError:
            yield number, raw.decode(name, "surrogateescape"), "encoding"


def _decoded_lines(file: BinaryIO, encoding: Encoding) -> Iterator[Line]:
    number, rest, too_long = 0, "", False
    for text in texts(file, encoding):
        whole = rest + text
        if encoding.mac:
            whole = whole.replace("\r", "\n")
        *complete, rest = whole.split("\n")
        for line in complete:
            number += 1
            yield _line(number, line, too_long)
            too_long = False
        if len(rest) > MAX_ROW:
            too_long, rest = True, ""
    if rest or too_long:
        yield _line(number + 1, rest, too_long)


def _line(number: int, text: str, too_long: bool) -> Line:
    if too_long or len(text) > MAX_ROW:
        return number, "", "too_long"
    text = text.rstrip("\r")
    return number, text, "encoding" if ESCAPED.search(text) else ""


def texts(file: BinaryIO, encoding: Encoding) -> Iterator[str]:
    """The stream as pieces of text, without a byte-order mark."""
    decoder = encoding.decoder()
    first = True
    while chunk := file.read(CHUNK):
        text = decoder.decode(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text
    if text := decoder.decode(b"", True):
        yield text
