"""What a file that is no text seems to be, told by its first bytes, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection

from backends.base import Refused
from backends.documents.text import NAME

TEXT_ONLY = "Attach text: a text file, code, a PDF, a Word document (.docx) or a notebook."
PICTURE = "Chat reads text: type what it says, or use the tab for pictures."
SOUND = "Write it down first with the tab for speech, and attach the text."
ARCHIVE = "Unpack it and attach the files that your question is about."
MODEL = "Models are put into the models folder and chosen at the top of the tab, not attached."
TABLE = "Save it as CSV and attach that."
AS_PDF = "Save it as PDF and attach that."

# offset, bytes, what it is, what to do
SIGNS = (
    (0, b"\x89PNG\r\n", "a picture (PNG)", PICTURE),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", PICTURE),
    (0, b"GIF8", "a picture (GIF)", PICTURE),
    (8, b"WEBP", "a picture (WebP)", PICTURE),
    (0, b"II*\0", "a picture (TIFF)", PICTURE),
    (0, b"MM\0*", "a picture (TIFF)", PICTURE),
    (0, b"BM", "a picture (BMP)", PICTURE),
    (0, b"\0\0\1\0", "a picture (icon)", PICTURE),
    (4, b"ftypavif", "a picture (AVIF)", PICTURE),
    (4, b"ftyphei", "a picture (HEIC)", PICTURE),
    (0, b"8BPS", "a picture (Photoshop)", PICTURE),
    (8, b"WAVE", "a sound recording (WAV)", SOUND),
    (0, b"ID3", "a sound recording (MP3)", SOUND),
    (0, b"\xff\xfb", "a sound recording (MP3)", SOUND),
    (0, b"fLaC", "a sound recording (FLAC)", SOUND),
    (0, b"OggS", "a sound recording (Ogg)", SOUND),
    (4, b"ftypM4A", "a sound recording (M4A)", SOUND),
    (4, b"ftyp", "a video (MP4)", SOUND),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)", SOUND),
    (8, b"AVI ", "a video (AVI)", SOUND),
    (0, b"\x1f\x8b", "a packed file (gzip)", ARCHIVE),
    (0, b"BZh", "a packed file (bzip2)", ARCHIVE),
    (0, b"\xfd7zXZ\0", "a packed file (xz)", ARCHIVE),
    (0, b"(\xb5/\xfd", "a packed file (Zstandard)", ARCHIVE),
    (0, b"7z\xbc\xaf'\x1c", "an archive (7-Zip)", ARCHIVE),
    (0, b"Rar!\x1a", "an archive (RAR)", ARCHIVE),
    (257, b"ustar", "an archive (tar)", ARCHIVE),
    (0, b"GGUF", "a model file (GGUF)", MODEL),
    (8, b'{"', "a model file (safetensors)", MODEL),
    (0, b"\x80\x02", "a Python pickle", TEXT_ONLY),
    (0, b"\x80\x03", "a Python pickle", TEXT_ONLY),
    (0, b"\x80\x04", "a Python pickle", TEXT_ONLY),
    (0, b"\x80\x05", "a Python pickle", TEXT_ONLY),
    (0, b"\x93NUMPY", "a NumPy array", TABLE),
    (0, b"PAR1", "a Parquet table", TABLE),
    (0, b"ARROW1", "an Arrow table", TABLE),
    (0, b"SQLite format 3", "a database (SQLite)", "Export what you need as CSV and attach that."),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document, or one with a password",
     "Open it and save it as .docx or PDF, without a password."),
    (0, b"\x7fELF", "a program", TEXT_ONLY),
    (0, b"MZ", "a program", TEXT_ONLY),
    (0, b"\xcf\xfa\xed\xfe", "a program", TEXT_ONLY),
    (0, b"\xca\xfe\xba\xbe", "a program", TEXT_ONLY),
    (0, b"\0asm", "a program (WebAssembly)", TEXT_ONLY),
    (0, b"wOF", "a font", TEXT_ONLY),
    (0, b"OTTO", "a font", TEXT_ONLY),
    (0, b"\0\1\0\0\0", "a font", TEXT_ONLY),
)  # fmt: skip

# a name inside a ZIP that only this kind has (a "/" first: the end of a name)
INSIDE = (
    ("xl/workbook.xml", "an Excel workbook", TABLE),
    ("xl/workbook.bin", "an Excel workbook", TABLE),
    ("ppt/presentation.xml", "a PowerPoint presentation", AS_PDF),
    ("META-INF/container.xml", "an e-book (EPUB)", AS_PDF),
    ("content.xml", "a LibreOffice document", "Save it as .docx or PDF and attach that."),
    ("/data.pkl", "a model file (PyTorch)", MODEL),
    ("META-INF/MANIFEST.MF", "a program (Java)", TEXT_ONLY),
)


def refuse(data: bytes) -> None:
    """Raises Refused where `data` begins like something that is known and is no text."""
    for offset, sign, what, hint in SIGNS:
        if data.startswith(sign, offset):
            raise seems(what, hint)


def zip_kind(names: Collection[str]) -> Refused:
    """What a ZIP with these files in it is, as a refusal."""
    for inside, what, hint in INSIDE:
        if inside in names or (inside[0] == "/" and any(n.endswith(inside) for n in names)):
            return seems(what, hint)
    return seems("an archive (ZIP)", ARCHIVE)


def seems(what: str, hint: str) -> Refused:
    return Refused(f"{NAME} seems to be {what}, which cannot be read as text.", hint)


def unknown() -> Refused:
    return Refused(f"{NAME} is not text, and not of a kind that is known here.", TEXT_ONLY)


def too_large() -> Refused:
    """What is small on the disk and fills the memory when it is unpacked."""
    return Refused(
        f"{NAME} unpacks to far more than a file of its size should, so it was not read.",
        "If you trust it, save the part that you need as a new file and attach that.",
    )
