"""Attached files: read in a process of their own, kept with their message, put into the prompt.

A file is a stranger's, even when the user chose it. `backends/documents/reader.py` reads it, since
a PDF can be built to loop for ever or to fill the memory.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import backends.documents
from backends.base import Refused
from backends.documents.notebook import fence
from backends.documents.text import MAX_BYTES, NAME, clean
from webui.stranger import NoAnswer, ask, opened

SECONDS = 60.0  # for one file; 1,000 pages of a manual took 20 on two busy cores
PATIENCE = 5.0  # seconds more, for its own clock to come first
READER = Path(backends.documents.__file__).parent / "reader.py"
PART = "Attach the part that your question is about."
NAME_LENGTH = 80

LANGUAGES = {
    "bash": "sh bash zsh", "bat": "bat cmd", "c": "c h", "clojure": "clj", "cmake": "cmake",
    "cpp": "cpp cc cxx hpp hh", "csharp": "cs", "css": "css scss less", "csv": "csv",
    "dart": "dart", "diff": "diff patch", "elixir": "ex exs", "erlang": "erl", "fortran": "f90 f95",
    "go": "go", "graphql": "graphql", "haskell": "hs", "html": "html htm", "ini": "ini cfg conf",
    "java": "java", "javascript": "js mjs cjs", "json": "json jsonl", "jsx": "jsx", "julia": "jl",
    "kotlin": "kt kts", "latex": "tex", "lua": "lua", "makefile": "mk", "markdown": "md markdown",
    "matlab": "m", "perl": "pl pm", "php": "php", "powershell": "ps1", "proto": "proto",
    "python": "py pyi", "r": "r", "ruby": "rb", "rust": "rs", "scala": "scala", "sql": "sql",
    "swift": "swift", "toml": "toml", "tsv": "tsv", "tsx": "tsx", "typescript": "ts",
    "vue": "vue", "xml": "xml svg", "yaml": "yaml yml", "zig": "zig",
}  # fmt: skip
BY_ENDING = {f".{end}": name for name, ends in LANGUAGES.items() for end in ends.split()}

# What ends a turn for some model. A word joiner goes behind its first sign, so that a file cannot
# speak as somebody else; a person does not see it.
TURN_MARKS = re.compile(
    r"<(?=[|｜][^<>\s]{1,60}[|｜]>|/?s>|(?:bos|eos|pad)>|(?:start|end)_of_turn>|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
WORD_JOINER = "\u2060"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file as text.

    pages      of a PDF; 0 where there are none
    note       what the user should know about how it was read, as sentences; or nothing
    language   what its text is written in, as a Markdown fence names it; or nothing
    """

    name: str
    text: str
    pages: int = 0
    note: str = ""
    language: str = ""

    @property
    def characters(self) -> int:
        return len(self.text)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Attachment:
        """Raises ValueError for what is no attachment."""
        name, text, pages = value.get("name"), value.get("text"), value.get("pages", 0)
        if not isinstance(name, str) or not isinstance(text, str) or not isinstance(pages, int):
            raise ValueError("This is not an attached file. Attach it again.")
        note, language = str(value.get("note", "")), str(value.get("language", ""))
        known = language if language in LANGUAGES else ""
        return cls(clean_name(name), clean(text), pages, note, known)


def as_extra(attachments: Iterable[Attachment]) -> dict[str, Any]:
    """What a message keeps of them beside its text: `attachments_of` reads it."""
    return {"attachments": [one.as_dict() for one in attachments]}


def attachments_of(extra: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """The files of a message. What is no attachment (another program wrote it) is passed over."""
    listed = extra.get("attachments")
    found = []
    for value in listed if isinstance(listed, list) else []:
        try:
            found.append(Attachment.from_dict(value if isinstance(value, dict) else {}))
        except ValueError:
            continue
    return tuple(found)


def as_prompt(attachments: Iterable[Attachment], question: str) -> str:
    """The user's turn as the model sees it: each file in a fence under its name, then the question.

    Nothing in a file's text can close its fence or end the turn.
    """
    parts = []
    for one in attachments:
        pages = f" ({one.pages:,} pages)" if one.pages > 1 else ""
        text = TURN_MARKS.sub(lambda mark: mark[0] + WORD_JOINER, one.text)
        parts.append(f"File: {one.name}{pages}\n{fence(text, one.language)}")
    return "\n\n".join([*parts, question] if question.strip() else parts)


def clean_name(name: str) -> str:
    """A file's name as it may be shown and told to a model: one line, no path, no tricks."""
    name = unicodedata.normalize("NFC", clean(name).replace("\\", "/").rstrip("/"))
    name = name.rpartition("/")[2].replace("`", "'")
    # Category C: control characters, and those that turn the direction of what follows.
    name = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in name)
    name = TURN_MARKS.sub(lambda mark: mark[0] + " ", " ".join(name.split()))
    if len(name) > NAME_LENGTH:
        end = PurePosixPath(name).suffix[:12]
        name = name[: NAME_LENGTH - 1 - len(end)].rstrip() + "…" + end
    return name if name.strip(".") else "file"


def language_of(name: str) -> str:
    """By the name's ending alone: it colours a fence and decides nothing else."""
    return BY_ENDING.get(PurePosixPath(name.lower()).suffix, "")


async def read_attachment(path: Path, allowed: Path) -> Attachment:
    """The file at `path` as text. Cancelling ends its process.

    allowed: the folder into which Gradio puts what browsers send; `path` came from a browser and
    must lie there, links followed. Raises Refused.
    """
    name = clean_name(path.name)
    with opened(path, allowed, name, MAX_BYTES, PART) as file:
        try:
            answer = await ask(file, READER, name, SECONDS, PATIENCE)
        except NoAnswer as ended:
            if ended.late:
                raise Refused(
                    f"{name} was not read within {SECONDS:.0f} s.",
                    f"{PART[:-1]}, or save it as plain text.",
                ) from ended
            raise Refused(
                f"{name} could not be read: it ended the program that reads it.",
                "Save it as plain text and attach that.",
            ) from ended
    if "error" in answer:
        message, hint = (str(answer[key]).replace(NAME, name) for key in ("error", "hint"))
        raise Refused(message, hint)
    language = language_of(name) if answer["kind"] == "text" else ""
    return Attachment(name, answer["text"], answer["pages"], " ".join(answer["notes"]), language)
