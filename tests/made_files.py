"""Documents written byte by byte, so that a test says exactly what is in them."""

from __future__ import annotations

import io
import zipfile
import zlib

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(*contents: bytes, packed: bool = False, trailer: bytes = b"", extra: bytes = b"") -> bytes:
    """A PDF with one page for each content stream. /F1 is Helvetica, /F2 is CJK by code point.

    packed: streams compressed. trailer: more keys of the trailer. extra: more objects, from 90 on.
    """
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <0000> <FFFF> "
        b"endcodespacerange 1 beginbfrange <0000> <FFFF> <0000> endbfrange endcmap end"
    )
    kids = b" ".join(b"%d 0 R" % (10 + 2 * n) for n in range(len(contents)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(contents), kids),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: b"<< /Type /Font /Subtype /Type0 /BaseFont /Song /Encoding /Identity-H "
        b"/DescendantFonts [5 0 R] /ToUnicode 6 0 R >>",
        5: b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Song /DW 1000 /CIDSystemInfo "
        b"<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        6: b"<< /Length %d >>\nstream\n%s\nendstream" % (len(cmap), cmap),
    }
    for n, content in enumerate(contents):
        data = zlib.compress(content, 9) if packed else content
        how = b"/Filter /FlateDecode " if packed else b""
        objects[10 + 2 * n] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>" % (11 + 2 * n)
        )
        objects[11 + 2 * n] = b"<< %s/Length %d >>\nstream\n%s\nendstream" % (how, len(data), data)
    out = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
    places = {}
    for number, body in objects.items():
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    out += extra
    start = len(out)
    rows = b"".join(b"%d 1\n%010d 00000 n \n" % (n, at) for n, at in places.items())
    out += b"xref\n0 1\n0000000000 65535 f \n" + rows
    return out + b"trailer\n<< /Size 200 /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        trailer, start,
    )  # fmt: skip


def at(x: int, y: int, text: str, font: str = "F1") -> bytes:
    """Draws `text` there, in points from the lower left corner."""
    shown = f"<{text.encode('utf-16-be').hex()}>".encode() if font == "F2" else (
        b"(" + text.encode("cp1252").replace(b"(", b"\\(").replace(b")", b"\\)") + b")"
    )  # fmt: skip
    return b"BT /%s 12 Tf 1 0 0 1 %d %d Tm %s Tj ET\n" % (font.encode(), x, y, shown)


def docx(body: str, before: str = "", parts: dict[str, str] | None = None) -> bytes:
    """A Word document with this XML inside its body."""
    xml = f'<?xml version="1.0" encoding="UTF-8"?>{before}<w:document xmlns:w="{W}"'
    xml += ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
    xml += f"<w:body>{body}</w:body></w:document>"
    return zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": xml, **(parts or {})})


def paragraph(text: str, more: str = "") -> str:
    return f"<w:p>{more}<w:r><w:t>{text}</w:t></w:r></w:p>"


def zipped(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()
