"""Word documents (.docx): a ZIP with XML in it, both of which can be built to fill the memory."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from xml.parsers import expat

from backends.base import Refused
from backends.documents.kinds import too_large, zip_kind
from backends.documents.text import NAME, Document

PART_BYTES = 50 * 2**20  # of one XML part, unpacked; a book of 1,000 pages has about 10 MB
RATIO = 200  # unpacked to packed; Word's own reach about 50
SMALL = 2**20  # bytes below which no ratio is asked: a short document of one repeated line
BODY = "word/document.xml"
NOTES = ("word/footnotes.xml", "word/endnotes.xml")
WORD = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
)
COMPATIBLE = "http://schemas.openxmlformats.org/markup-compatibility/2006"
# A heading's style is named in the language of the Word that made it.
HEADING = re.compile(r"(?:heading|berschrift|titre|titolo|ttulo|kop|rubrik)\s?([1-6])$", re.I)
BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_zip(data: bytes) -> Document:
    """A Word document's text. Raises Refused for any other ZIP, named by what it holds."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = set(archive.namelist())
        if BODY not in names:
            raise zip_kind(names)
        parts = [words(_part(archive, n)) for n in (BODY, *NOTES) if n in names]
    except MemoryError as error:
        raise too_large() from error
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, KeyError) as error:
        raise _damaged() from error
    except (NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise _damaged() from error  # a packing that zipfile does not know, or a locked part
    return Document("docx", "\n\n".join(part for part in parts if part))


def words(xml: bytes) -> str:
    """The text of one part: a line for each paragraph, `#` before headings, `-` before lists."""
    reading = _Words()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reading.doctype
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.data
    parser.buffer_text = True
    parser.Parse(xml, True)
    text = re.sub(r" +\n", "\n", "".join(reading.out))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class _Words:
    """Collects while the parser walks: no tree is built."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.mark = ""  # what stands before the paragraph
        self.begun = False  # whether anything of the paragraph was written
        self.in_text = False
        self.in_run = False  # outside, a tab is the definition of a tab stop
        self.skipped = 0  # elements open inside a second rendering of the same thing
        self.cells = 0  # nesting of table cells: their paragraphs stand in one line

    def doctype(self, *args: object) -> None:
        # Entities are declared there, and Word writes none.
        raise Refused(
            f"{NAME} declares XML entities, which no Word document does, so it was not read.",
            "Open it in Word or LibreOffice, save it as a new .docx, and attach that.",
        )

    def start(self, name: str, attributes: dict[str, str]) -> None:
        space, _, tag = name.rpartition(" ")
        if self.skipped or (space == COMPATIBLE and tag == "Fallback"):
            self.skipped += 1
        elif space not in WORD:
            return
        elif tag == "t":
            self.in_text = True
        elif tag == "r":
            self.in_run = True
        elif tag in BREAKS and self.in_run:
            self.write(BREAKS[tag])
        elif tag == "p":
            self.mark, self.begun = "", False
        elif tag == "pStyle":
            found = HEADING.search(attributes.get(f"{space} val", ""))
            self.mark = "#" * int(found[1]) + " " if found else self.mark
        elif tag == "numPr":
            self.mark = self.mark or "- "
        elif tag == "tc":
            self.cells += 1

    def end(self, name: str) -> None:
        space, _, tag = name.rpartition(" ")
        if self.skipped:
            self.skipped -= 1
        elif space not in WORD:
            return
        elif tag == "t":
            self.in_text = False
        elif tag == "r":
            self.in_run = False
        elif tag == "p":
            self.out.append(" " if self.cells else "\n\n" if self.mark[:1] == "#" else "\n")
        elif tag == "tc":
            self.cells -= 1
            self.out.append("| ")
        elif tag == "tr" and not self.cells:
            self.out[-1:] = ["\n"]  # in place of the last cell's bar

    def data(self, text: str) -> None:
        if self.in_text and not self.skipped:
            self.write(text)

    def write(self, text: str) -> None:
        if not self.begun:
            self.out.append(self.mark)
            self.begun = True
        self.out.append(text)


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    """One part, unpacked as far as the limits let it: the sizes in a ZIP are only claims."""
    info = archive.getinfo(name)
    most = min(PART_BYTES, max(SMALL, info.compress_size * RATIO))
    with archive.open(info) as part:
        xml = part.read(most + 1)
    if len(xml) > most:
        raise too_large()
    return xml


def _damaged() -> Refused:
    return Refused(
        f"{NAME} is a damaged Word document or archive and cannot be read.",
        "Open it in Word or LibreOffice, save it as a new .docx, and attach that.",
    )
