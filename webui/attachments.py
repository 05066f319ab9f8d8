"""Attached files: read in a process of their own, kept with their message, put into the prompt.

A file is a stranger's, even when the user chose it. `backends/documents/reader.py` reads it, since
a PDF can be built to loop for ever or to fill the memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import stat
import sys
import threading
import unicodedata
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import backends.documents
from backends.base import Refused
from backends.documents.notebook import fence
from backends.documents.text import MAX_BYTES, NAME, clean
from backends.runtime.process import CHECKOUT, start_flags

SECONDS = 60.0  # for one file; 1,000 pages of a manual took 20 on two busy cores
PATIENCE = 5.0  # seconds more, for its own clock to come first
AT_ONCE = 2
ANSWER_BYTES = 16 * 2**20  # more than the longest text can take
NAME_LENGTH = 80
# Of the machine, not of a page or a loop: how many files are read at once.
SLOTS = threading.BoundedSemaphore(AT_ONCE)

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
    with _opened(path, allowed, name) as file:
        async with _slot():
            answer = await _read(file, name)
    if "error" in answer:
        message, hint = (str(answer[key]).replace(NAME, name) for key in ("error", "hint"))
        raise Refused(message, hint)
    language = language_of(name) if answer["kind"] == "text" else ""
    return Attachment(name, answer["text"], answer["pages"], " ".join(answer["notes"]), language)


@contextmanager
def _opened(path: Path, allowed: Path, name: str) -> Iterator[int]:
    """The open file's number, after every check; what is read is what was checked."""
    gone = Refused(f"{name} is not there any more.", "Attach it again.")
    try:
        real = path.resolve(strict=True)
        inside = real.is_relative_to(allowed.resolve(strict=True))
    except (OSError, RuntimeError, ValueError) as error:  # missing, a loop of links, a NUL in it
        raise gone from error
    if not inside:
        raise Refused(
            f"{name} does not lie where attached files are put, so it was not read.",
            "Attach it with the button or by dropping it onto the page.",
        )
    # A pipe under that name must not hold the page up, and a link put there since is not followed.
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        number = os.open(real, os.O_RDONLY | getattr(os, "O_BINARY", 0) | careful)
    except OSError as error:
        raise gone from error
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{name} is not a file.", "Attach single files.")
        if about.st_size > MAX_BYTES:
            raise Refused(
                f"{name} has {about.st_size / 1e6:,.1f} MB, more than the "
                f"{MAX_BYTES / 1e6:.0f} MB that an attachment may have.",
                "Attach the part that your question is about.",
            )
        yield number
    finally:
        os.close(number)


@asynccontextmanager
async def _slot() -> AsyncIterator[None]:
    while not SLOTS.acquire(blocking=False):
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        SLOTS.release()


async def _read(file: int, name: str) -> dict[str, Any]:
    """What the reader says. Raises Refused where it says nothing."""
    room = Path(backends.documents.__file__).parent
    loop = asyncio.get_running_loop()
    began = loop.time()
    process = await asyncio.create_subprocess_exec(
        # A bare file name: whoever looks for workers on command lines does not find this.
        *(sys.executable, "-P", "reader.py", str(SECONDS)),
        cwd=room,
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
        **start_flags(),
    )
    line = b""
    try:
        async with asyncio.timeout(SECONDS + PATIENCE):
            line = await _line(process)
            await process.wait()  # it ends by itself now: to kill it would confuse asyncio's reaper
    except TimeoutError:
        logging.getLogger(__name__).warning("the reader of %s did not end", name)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if line.endswith(b"\n"):
        answer: dict[str, Any] = json.loads(line)
        return answer
    if loop.time() - began >= SECONDS:
        raise Refused(
            f"{name} was not read within {SECONDS:.0f} s.",
            "Attach the part that your question is about, or save it as plain text.",
        )
    raise Refused(
        f"{name} could not be read: it ended the program that reads it.",
        "Save it as plain text and attach that.",
    )


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout
    data = b""
    while len(data) < ANSWER_BYTES and (more := await process.stdout.read(2**16)):
        data += more
    return data


def _environment() -> dict[str, str]:
    """An allow-list: no secret of ours, no proxy, no hub."""
    keep = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONPATH")
    kept = {k: os.environ[k] for k in keep if k in os.environ}
    path = os.pathsep.join(p for p in (str(CHECKOUT), kept.get("PYTHONPATH", "")) if p)
    return {**kept, "PYTHONPATH": path}
