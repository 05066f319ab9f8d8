"""The text of a PDF, page by page, in the order in which the PDF draws it."""

from __future__ import annotations

import io

from backends.base import Refused
from backends.documents.kinds import too_large
from backends.documents.text import NAME, Document, refuse_too_long

HEAD = 1024  # bytes in which `%PDF-` must stand
PRINT_AGAIN = "Open it, print it into a new PDF, and attach that."
LISTED = 8  # page numbers named in a note


def is_pdf(data: bytes) -> bool:
    """Whether it begins like one; junk before the mark is allowed where the rest is no text."""
    head = data[:HEAD]
    if head.lstrip(b"\xef\xbb\xbf\0\t\r\n ").startswith(b"%PDF-"):
        return True
    return b"%PDF-" in head and b"endobj" in data and not data.isascii()


def read_pdf(data: bytes) -> Document:
    """Raises Refused: locked, a scan without text, damaged, or one that unpacks without end."""
    from pypdf.errors import DependencyError, LimitReachedError

    try:
        return _read(data)
    except Refused:
        raise
    except DependencyError as error:  # a cipher that only another library knows
        raise _locked() from error
    except (LimitReachedError, MemoryError) as error:
        raise too_large() from error
    except Exception as error:  # whatever a stranger's file raises in pypdf
        raise Refused(f"{NAME} is a damaged PDF and cannot be read.", PRINT_AGAIN) from error


def _read(data: bytes) -> Document:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, LimitReachedError

    reader = PdfReader(io.BytesIO(data), strict=False)
    # Many are locked against printing alone, with an empty password for reading.
    if reader.is_encrypted and not reader.decrypt(""):
        raise _locked()
    texts: list[str] = []
    empty: list[int] = []
    failed: list[int] = []
    length = 0
    for number, page in enumerate(reader.pages, 1):
        try:
            text = page.extract_text().strip()
        except (LimitReachedError, MemoryError, DependencyError):
            raise
        except Exception:  # whatever a stranger's page raises in pypdf; the others may be whole
            failed.append(number)
            text = ""
        if not text and number not in failed:
            empty.append(number)
        texts.append(text)
        length += len(text)
        refuse_too_long(length, more=True)
    return _document(texts, empty, failed)


def _document(texts: list[str], empty: list[int], failed: list[int]) -> Document:
    count = len(texts)
    if not count or len(failed) == count:
        raise Refused(f"{NAME} is a damaged PDF: no page of it can be read.", PRINT_AGAIN)
    if not any(texts):
        pages = "1 page" if count == 1 else f"{count:,} pages"
        raise Refused(
            f"{NAME} has {pages} and no text in it, so it is probably a scan.",
            "Run text recognition (OCR) over it first, for instance ocrmypdf, and attach that.",
        )
    text = texts[0]
    if count > 1:
        pairs = enumerate(texts, 1)
        text = "\n\n".join(f"--- Page {number} ---\n{text}".rstrip() for number, text in pairs)
    notes = []
    if empty:
        notes.append(f"No text on {_pages(empty)}: empty, or a picture.")
    if failed:
        notes.append(f"Damaged and left out: {_pages(failed)}.")
    return Document("pdf", text, count, notes)


def _pages(numbers: list[int]) -> str:
    named = ", ".join(str(n) for n in numbers[:LISTED])
    more = f" and {len(numbers) - LISTED:,} more" if len(numbers) > LISTED else ""
    return f"page{'s' if len(numbers) > 1 else ''} {named}{more}"


def _locked() -> Refused:
    return Refused(
        f"{NAME} is protected by a password or by encryption, so its text cannot be read.",
        "Remove the protection, or open it and print it into a new PDF, and attach that.",
    )
