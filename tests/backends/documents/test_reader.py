"""What is attached is told by its bytes: read as what it is, or refused by name with a way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from backends.base import Refused
from backends.documents import reader
from backends.documents.text import MAX_CHARACTERS
from tests.made_files import at, docx, paragraph, pdf, zipped

GERMAN = "Grüße aus Köln: 5 € für „Äpfel“ – süß"
ROOM = Path(reader.__file__).parent


def refusal(data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        reader.read(data)
    message, hint = caught.value.message, caught.value.hint
    assert message.startswith("{name} ") and message.endswith(".") and hint.endswith(".")
    return f"{message} {hint}"


# Text


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_text_is_read_in_its_own_encoding(encoding: str) -> None:
    found = reader.read(GERMAN.encode(encoding))
    assert (found.kind, found.text) == ("text", GERMAN)
    assert bool(found.notes) == (encoding == "cp1252")  # a guess is said


def test_what_only_latin_1_has_is_latin_1() -> None:
    assert reader.read(b"Gr\xfc\xdfe und " + b"a" * 200 + b"\x81").text == "Grüße und " + "a" * 200


def test_other_scripts_and_signs_stay_as_they_are() -> None:
    text = "日本語 한국어 العربية 😀\n\tif x < 3 && y: <b>`code`</b>"
    assert reader.read(text.encode()).text == text
    assert reader.read("日本語".encode("utf-16")).text == "日本語"


def test_line_ends_are_one_kind_and_stray_signs_are_gone() -> None:
    data = b"a\r\nb\rc\x0cd\x1b[31mred\x1b[0m " + b"long " * 100 + b"\x00e\x07\x7f"
    assert reader.read(data).text == "a\nb\nc\ndred " + "long " * 100 + "e"


def test_a_log_cut_inside_a_character_is_still_unicode() -> None:
    found = reader.read((GERMAN * 3).encode()[:-1])
    assert found.text.startswith(GERMAN) and "damaged" not in found.text
    broken = reader.read("äöü".encode() * 20 + b"\xc3 end")
    assert broken.text == "äöü" * 20 + "\ufffd end" and "damaged" in broken.notes[0]


def test_a_text_about_pdf_or_beginning_like_a_picture_is_text() -> None:
    for text in ("BMW builds cars", "A file starts with %PDF-1.7", "MZ", "ID3 tags", "GIF89a"):
        assert reader.read(text.encode()).text == text


def test_nothing_and_too_much_are_refused() -> None:
    assert refusal(b"") == "{name} is empty. Attach a file with text in it."
    assert "contains no text" in refusal(b" \n\t\n")
    assert "3,000,000 characters of text, more than the 2,000,000" in refusal(b"a" * 3_000_000)
    assert len(reader.read(b"a" * MAX_CHARACTERS).text) == MAX_CHARACTERS


OTHERS = {
    "a picture (PNG)": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a picture (JPEG)": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "a sound recording (WAV)": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0",
    "a video (MP4)": b"\0\0\0\x20ftypisom\0\0\2\0",
    "a packed file (gzip)": b"\x1f\x8b\x08\0\0\0\0\0",
    "an archive (tar)": b"a.txt".ljust(257, b"\0") + b"ustar\0",
    "a model file (GGUF)": b"GGUF\3\0\0\0" + bytes(16),
    "a model file (safetensors)": b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32"}}' + bytes(40),
    "a database (SQLite)": b"SQLite format 3\0" + bytes(40),
    "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9),
    "a program": b"\x7fELF\2\1\1" + bytes(9),
    "a Rich Text document": b"{\\rtf1\\ansi hello}",
    "an archive (ZIP)": zipped({"a.txt": "x"}),
    "an Excel workbook": zipped({"xl/workbook.xml": "x"}),
    "a model file (PyTorch)": zipped({"model/data.pkl": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_text_is_refused_by_name(what: str) -> None:
    assert f"{{name}} seems to be {what}" in refusal(OTHERS[what])


def test_an_unknown_binary_is_refused() -> None:
    assert "not of a kind that is known here" in refusal(bytes(range(256)) * 40)
    assert "not of a kind that is known here" in refusal(zlib.compress(os.urandom(2000)))


# PDF


def test_the_text_of_a_pdf_by_pages_with_umlauts_and_cjk() -> None:
    text = at(50, 700, "Grüße aus Köln – 5 €"), at(50, 700, "你好，世界 日本語 한국어", "F2")
    found = reader.read(pdf(*text, packed=True))
    assert found.text == (
        "--- Page 1 ---\nGrüße aus Köln – 5 €\n\n--- Page 2 ---\n你好，世界 日本語 한국어"
    )
    assert (found.kind, found.pages, found.notes) == ("pdf", 2, [])


def test_two_columns_are_read_one_after_the_other() -> None:
    rows = range(3)
    page = b"".join(at(50, 700 - 14 * n, f"left {n}") for n in rows)
    page += b"".join(at(320, 700 - 14 * n, f"right {n}") for n in rows)
    expected = [f"{side} {n}" for side in ("left", "right") for n in rows]
    assert reader.read(pdf(page)).text.splitlines() == expected


def test_junk_before_a_pdf_is_forgiven() -> None:
    assert reader.read(b"\r\n" + pdf(at(50, 700, "hello"))).text == "hello"


def test_pages_without_text_are_said() -> None:
    found = reader.read(pdf(at(50, 700, "a"), b"", b""))
    assert found.notes == ["No text on pages 2, 3: empty, or a picture."]


def test_a_scan_a_locked_and_a_damaged_pdf_are_refused_each_with_its_own_way_out() -> None:
    assert "2 pages and no text in it, so it is probably a scan" in refusal(pdf(b"q Q", b"q Q"))
    locked = pdf(
        at(50, 700, "x"),
        trailer=b"/ID [(a)(a)] /Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -4 "
        b"/O (" + b"o" * 32 + b") /U (" + b"u" * 32 + b") >>",
    )
    assert "protected by a password" in refusal(locked)
    aes = pdf(
        at(50, 700, "x"),
        trailer=b"/ID [(a)(a)] /Encrypt << /Filter /Standard /V 5 /R 6 /Length 256 /P -4 /O ("
        + b"o" * 48 + b") /U (" + b"u" * 48 + b") /OE (" + b"e" * 32 + b") /UE (" + b"f" * 32
        + b") /Perms (" + b"p" * 16 + b") /CF << /StdCF << /CFM /AESV3 /Length 32 >> >> "
        b"/StmF /StdCF /StrF /StdCF >>",
    )  # fmt: skip
    assert "protected by a password" in refusal(aes)
    assert "damaged PDF" in refusal(pdf(at(50, 700, "x"))[:300])
    assert "damaged PDF" in refusal(b"%PDF-1.7\n" + os.urandom(500))


def test_one_damaged_page_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from pypdf import PageObject

    real = PageObject.extract_text

    def second_fails(page: PageObject) -> str:
        text = real(page)
        if text == "two":
            raise KeyError("/Whatever")
        return text

    monkeypatch.setattr(PageObject, "extract_text", second_fails)
    found = reader.read(pdf(at(9, 9, "one"), at(9, 9, "two"), at(9, 9, "three")))
    assert "one" in found.text and "three" in found.text
    assert found.notes == ["Damaged and left out: page 2."]


def test_tables_that_name_each_other_without_end_are_ended() -> None:
    plain = pdf(at(50, 700, "still here"))
    own = int(plain.split(b"startxref\n")[1].split()[0])
    itself = pdf(at(50, 700, "still here"), trailer=b"/Prev %d" % own)
    assert reader.read(itself).text == "still here"
    first = pdf(at(50, 700, "still here"), trailer=b"/Prev 0000000000")
    ring = first.replace(b"/Prev 0000000000", b"/Prev %010d" % len(first))
    ring += b"xref\n0 0\ntrailer\n<< /Size 200 /Root 1 0 R /Prev %d >>\n" % own
    ring += b"startxref\n%d\n%%%%EOF\n" % len(first)
    assert reader.read(ring).text == "still here"


def test_a_tree_of_pages_that_holds_itself_is_refused() -> None:
    data = pdf(at(50, 700, "x")).replace(b"/Kids [10 0 R]", b"/Kids [2 0 R ]")
    assert "PDF" in refusal(data) or "unpacks" in refusal(data)


def test_a_pdf_bomb_is_refused() -> None:
    assert "unpacks to far more" in refusal(pdf(b" " * 120_000_000, packed=True))


def test_a_pdf_of_endless_text_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.documents import text

    monkeypatch.setattr(text, "MAX_CHARACTERS", 50)
    assert "at least 60 characters" in refusal(pdf(*[at(9, 9, "a" * 20)] * 9))


# Word


def test_a_word_document_keeps_headings_lists_tables_and_footnotes() -> None:
    body = (
        paragraph("Überschrift", '<w:pPr><w:pStyle w:val="berschrift2"/></w:pPr>')
        + paragraph("Erster &amp; Zweiter")
        + paragraph("Punkt", "<w:pPr><w:tabs><w:tab/></w:tabs><w:numPr/></w:pPr>")
        + f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"
        + "<w:p><w:r><w:t>x</w:t><w:tab/><w:t>y</w:t><w:br/><w:t>z</w:t></w:r></w:p>"
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
        + f"<mc:Fallback>{paragraph('twice')}</mc:Fallback>"
    )
    note = body.partition("<w:tbl>")[0].replace("Erster &amp; Zweiter", "Fußnote")
    part = f'<w:footnotes xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main">{note}'
    found = reader.read(docx(body, parts={"word/footnotes.xml": part + "</w:footnotes>"}))
    assert found.kind == "docx"
    assert found.text.startswith("## Überschrift\n\nErster & Zweiter\n- Punkt\na | b\nx\ty\nz\n")
    assert found.text.endswith("Fußnote\n- Punkt") and "gone" not in found.text
    assert "twice" not in found.text


LAUGHS = (
    "<!DOCTYPE d [<!ENTITY a 'ha'>"
    + "".join(
        f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(10)
    )
    + "]>"
)  # fmt: skip
OUTSIDE = '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("before", [LAUGHS, OUTSIDE, "<!DOCTYPE d>"])
def test_a_word_document_with_entities_is_refused(before: str) -> None:
    assert "declares XML entities" in refusal(docx(paragraph("x &a;"), before))


def test_a_word_document_that_unpacks_without_end_is_refused() -> None:
    data = docx(paragraph("a" * 60_000_000))
    tracemalloc.start()
    said = refusal(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to far more" in said
    assert most < 45_000_000  # 12 MB are the limit here, and zipfile copies


def test_a_damaged_word_document_is_refused() -> None:
    whole = docx(paragraph("hello"))
    for data in (whole[:-30], docx("<w:p>"), whole.replace(b"<Types/>", b"<Tipes/>")[:200]):
        assert "damaged Word document" in refusal(data)


# Notebooks


def test_a_notebook_is_its_sources_and_its_text_outputs() -> None:
    outputs = [
        {"output_type": "stream", "text": ["3\n"]},
        {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "<Figure>"}},
        {"output_type": "error", "traceback": ["\u001b[31mKeyError\u001b[0m", "'x'"]},
    ]
    book = {
        "nbformat": 4,
        "metadata": {"language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Größe\n", "text \ud800"]},
            {"cell_type": "code", "source": "print('''```''', 1 + 2)", "outputs": outputs},
        ],
    }
    found = reader.read(json.dumps(book).encode())
    assert found.kind == "notebook" and found.notes == ["1 picture in its outputs left out."]
    assert found.text == (
        "# Größe\ntext \ufffd\n\n````python\nprint('''```''', 1 + 2)\n````\n\n"
        "Output:\n```\n3\n```\n\nOutput:\n```\nKeyError\n'x'\n```"
    )


@pytest.mark.parametrize(
    "text",
    ['{"nbformat": 4, "cells": [', '{"nbformat": 4}', '{"nbformat": 4, "a": ' + "[" * 99_999,
     '{"nbformat": 4, "cells": 3}', '{"nbformat": "x", "cells": []}'],
    ids=["half", "without cells", "deep", "odd", "odder"],
)  # fmt: skip
def test_what_only_looks_like_a_notebook_is_text(text: str) -> None:
    found = reader.read(text.encode())
    assert (found.kind, found.text) == ("text", text)


# The process


def run(code: str) -> str:
    """What `code` prints in a process of its own, the reader process's names at hand."""
    start = "from backends.runtime.reader_process import *\nimport sys, os\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, cwd=ROOM.parents[1]
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "deed",
    ["open('CANARY', 'w')", "open('CANARY', 'xb')", "os.open('CANARY', os.O_CREAT)",
     "import socket; socket.socket()", "import socket; socket.getaddrinfo('localhost', 80)",
     "import subprocess; subprocess.run(['true'])", "os.system('true')", "os.fork()",
     "os.remove('CANARY')", "import ctypes; ctypes.CDLL(None)"],
)  # fmt: skip
def test_the_reader_opens_no_door(deed: str, tmp_path: Path) -> None:
    said = run(
        f"import socket, subprocess, ctypes\nos.chdir({str(tmp_path)!r})\nshut_doors()\n{deed}"
    )
    assert "PermissionError" in said and "is not allowed here" in said
    assert not list(tmp_path.iterdir())


MAIN = """
import backends.documents.reader as r
import sys
sys.argv = ["", "{seconds}"]
r.read = lambda data: {deed}
r.main()
"""


def test_its_doors_are_shut_before_the_file_is_looked_at(tmp_path: Path) -> None:
    said = run(MAIN.format(seconds=9, deed=f"open({str(tmp_path / 'CANARY')!r}, 'w')"))
    assert "open is not allowed here" in said and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
def test_the_reader_has_a_limit_on_memory() -> None:
    said = run(MAIN.format(seconds=9, deed="bytes(2 * 10**9)"))
    assert json.loads(said)["error"].startswith("{name} unpacks to far more")


def test_the_reader_has_a_clock_that_needs_no_turn() -> None:
    began = time.monotonic()
    assert run(MAIN.format(seconds=0.5, deed="sum(range(10**12))")) == ""  # holds the GIL
    assert time.monotonic() - began < 5
