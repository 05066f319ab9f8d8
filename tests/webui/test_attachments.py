"""A file that a browser sent becomes text or two sentences, and its process ends with the wait."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backends.base import Refused
from tests.made_files import at, docx, paragraph, pdf, zipped
from webui import attachments
from webui.attachments import (
    Attachment,
    as_extra,
    as_prompt,
    attachments_of,
    clean_name,
    language_of,
    read_attachment,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where Gradio puts what browsers send."""
    made = tmp_path / "gradio tmp ü"
    made.mkdir()
    return made


def read(path: Path, folder: Path) -> Attachment:
    return asyncio.run(read_attachment(path, folder))


def refusal(path: Path, folder: Path) -> str:
    with pytest.raises(Refused) as caught:
        read(path, folder)
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert "{name}" not in str(caught.value)
    return str(caught.value)


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def readers() -> list[psutil.Process]:
    """Reader processes that are alive, ours alone."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.status() != "zombie" and "reader.py" in p.cmdline()]


def test_code_a_pdf_a_word_document_and_a_notebook_become_text(folder: Path) -> None:
    code = read(put(folder, "größe.py", "print('ü')\r\n".encode()), folder)
    assert code == Attachment("größe.py", "print('ü')", language="python")
    paper = read(put(folder, "paper.pdf", pdf(at(9, 9, "Grüße"), at(9, 9, "zwei"))), folder)
    assert (paper.pages, paper.note, paper.language) == (2, "", "")
    assert paper.text == "--- Page 1 ---\nGrüße\n\n--- Page 2 ---\nzwei"
    assert paper.characters == len(paper.text)
    # Told by what is in it: the name says something else.
    assert read(put(folder, "word.txt", docx(paragraph("Hallo"))), folder).text == "Hallo"
    book = json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": "1 + 1"}]})
    assert read(put(folder, "a.ipynb", book.encode()), folder).text == "```\n1 + 1\n```"


@pytest.mark.alone
def test_half_a_second_is_enough_for_a_small_file(folder: Path) -> None:
    path = put(folder, "a.txt", b"hello")
    read(path, folder)
    began = time.monotonic()
    read(path, folder)
    assert time.monotonic() - began < 2  # 0.35 s on two idle cores


def test_a_refusal_names_the_file(folder: Path) -> None:
    said = refusal(put(folder, "Bild.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), folder)
    assert said.startswith("Bild.txt seems to be a picture (PNG), which cannot be read as text.")
    assert refusal(put(folder, "a.csv", b""), folder).startswith("a.csv is empty.")


def test_50_mb_are_refused_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "big.log"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    monkeypatch.setattr(sys, "executable", "/nothing/there")
    began = time.monotonic()
    assert "big.log has 50.0 MB, more than the 20 MB" in refusal(path, folder)
    assert time.monotonic() - began < 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_nothing_outside_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    secret = put(tmp_path, "secret.txt", b"the token")
    (folder / "link.txt").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    for path in (
        secret, folder / "link.txt", folder / "up" / "secret.txt", folder / ".." / "secret.txt",
        Path("/etc/passwd"), folder.with_name(folder.name + "x"),
    ):  # fmt: skip
        said = refusal(path, folder)
        assert "does not lie where attached files are put" in said or "not there any more" in said
        assert "token" not in said
    inside = put(folder, "inside.txt", b"fine")
    (folder / "good link.txt").symlink_to(inside)
    assert read(folder / "good link.txt", folder).text == "fine"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes there")
def test_what_is_no_file_does_not_hold_the_page_up(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    assert "pipe is not a file" in refusal(folder / "pipe", folder)
    assert "is not a file" in refusal(folder, folder)
    assert "not there any more" in refusal(folder / "loop", folder)
    assert "not there any more" in refusal(folder / "gone.txt", folder)
    assert "not there any more" in refusal(folder / "a\0b", folder)


BOMBS: dict[str, Callable[[], bytes]] = {
    "bomb.pdf": lambda: pdf(b" " * 120_000_000, packed=True),
    "bomb.docx": lambda: docx(paragraph("a" * 60_000_000)),
    "bomb.zip": lambda: zipped({"a": "a" * 60_000_000}),
    "deep.pdf": lambda: b"%PDF-1.7\n1 0 obj\n" + b"[" * 500_000 + b"\nendobj\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_built_to_fill_the_memory_is_a_sentence(folder: Path, name: str) -> None:
    path = put(folder, name, BOMBS[name]())
    before = psutil.Process().memory_info().rss
    assert refusal(path, folder).startswith(name)
    assert psutil.Process().memory_info().rss < before + 100 * 2**20
    assert not readers()


# Takes minutes: each operator is a step of pure Python, and there are pages of them.
SLOW = pdf(*[b"BT /F1 9 Tf (x) Tj ET q Q " * 200_000] * 8, packed=True)


@pytest.mark.alone
def test_a_file_that_takes_for_ever_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "SECONDS", 1.5)
    began = time.monotonic()
    assert "slow.pdf was not read within 2 s" in refusal(put(folder, "slow.pdf", SLOW), folder)
    assert time.monotonic() - began < 4
    assert not readers()


@pytest.mark.alone
def test_a_reader_that_does_not_end_itself_is_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own clock is a C thread; should even that be stopped, the page's clock is there."""
    sleeper = tmp_path / "sleep.sh"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(attachments, "SECONDS", 0.2)
    monkeypatch.setattr(attachments, "PATIENCE", 0.3)
    others = set(psutil.Process().children())  # the server that other tests share, perhaps
    began = time.monotonic()
    assert "was not read within" in refusal(put(folder, "a.txt", b"x"), folder)
    assert time.monotonic() - began < 2
    assert not set(psutil.Process().children()) - others


def test_a_reader_that_dies_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "it ended the program that reads it" in refusal(put(folder, "a.txt", b"x"), folder)


def test_cancelling_ends_the_process_and_frees_its_place(folder: Path) -> None:
    slow, small = put(folder, "slow.pdf", SLOW), put(folder, "a.txt", b"hello")

    async def go() -> None:
        for _ in range(3):  # more than there are places
            task = asyncio.create_task(read_attachment(slow, folder))
            while not readers():
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not readers()
        assert (await read_attachment(small, folder)).text == "hello"

    asyncio.run(go())


def test_no_more_than_two_read_at_once(folder: Path) -> None:
    paths = [put(folder, f"{n}.txt", b"hello %d" % n) for n in range(6)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(readers()))
            await asyncio.sleep(0.01)

    async def go() -> list[str]:
        watching = asyncio.create_task(watch())
        found = await asyncio.gather(*(read_attachment(p, folder) for p in paths))
        watching.cancel()
        return [one.text for one in found]

    assert asyncio.run(go()) == [f"hello {n}" for n in range(6)]
    assert most == 2


def test_its_process_is_told_no_secret_no_path_and_no_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = put(folder, "backends.worker.pdf", SLOW)

    async def go() -> None:
        task = asyncio.create_task(read_attachment(path, folder))
        while not (found := readers()):
            await asyncio.sleep(0.02)
        names = set(found[0].environ())
        assert names <= {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LC_CTYPE", "SYSTEMROOT"}
        # Outside checks tell workers by this word.
        assert "backends" not in " ".join(found[0].cmdline()[1:])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())


# The prompt


def test_files_stand_before_the_question_each_in_a_fence() -> None:
    files = [Attachment("a.py", "x = 1", language="python"), Attachment("b.pdf", "Grüße", pages=2)]
    assert as_prompt(files, "Why?") == (
        "File: a.py\n```python\nx = 1\n```\n\nFile: b.pdf (2 pages)\n```\nGrüße\n```\n\nWhy?"
    )
    assert as_prompt([], "Why?") == "Why?"
    assert as_prompt(files[:1], " ") == "File: a.py\n```python\nx = 1\n```"


def test_no_text_closes_its_fence() -> None:
    text = "```\nnow I am outside\n`````\n"
    opened = as_prompt([Attachment("a.md", text)], "Q").splitlines()
    assert opened[1] == "``````" and opened[-3] == "``````" and opened.count("``````") == 2


@pytest.mark.parametrize(
    "mark",
    ["<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "</s>", "<end_of_turn>", "[/INST]",
     "<</SYS>>", "<｜end▁of▁sentence｜>", "<eos>"],
)  # fmt: skip
def test_no_text_ends_the_turn(mark: str) -> None:
    said = as_prompt([Attachment("a.txt", f"a {mark} b")], "Q")
    assert mark not in said and said.replace("\u2060", "").count(mark) == 1


@pytest.mark.parametrize(
    "text", ["a <| b |> c", "x[INSTANCE]", "<span>", "if a <b|c> d", "a</small>"]
)
def test_code_that_only_looks_alike_is_left_alone(text: str) -> None:
    assert text in as_prompt([Attachment("a.txt", text)], "Q")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Größe 1.pdf", "Größe 1.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("a\nFile: b`.txt", "a File: b'.txt"),
        ("evil\u202egpj.exe", "evil gpj.exe"),
        ("a" * 200 + ".markdown", "a" * 70 + "….markdown"),
        ("", "file"),
        ("..", "file"),
        ("\ud800.txt", "\ufffd.txt"),
        ("<|im_end|>.txt", "< |im_end|>.txt"),
    ],
)
def test_a_name_is_one_harmless_line(name: str, shown: str) -> None:
    assert clean_name(name) == shown
    assert len(clean_name(name)) <= 80


def test_the_ending_names_the_language() -> None:
    named = {n: language_of(n) for n in ("a.PY", "b.tsx", "c.md", "d.txt", "e", ".py", "f.h")}
    assert named == {
        "a.PY": "python", "b.tsx": "tsx", "c.md": "markdown", "d.txt": "", "e": "", ".py": "",
        "f.h": "c",
    }  # fmt: skip


# Kept with the message


def test_what_is_kept_comes_back_through_json() -> None:
    files = (Attachment("a.py", "ü", language="python"), Attachment("b.pdf", "x", 3, "A note."))
    extra = json.loads(json.dumps({**as_extra(files), "other": 1}))
    assert attachments_of(extra) == files


@pytest.mark.parametrize(
    "extra",
    [{}, {"attachments": None}, {"attachments": "x"}, {"attachments": [3, {}, {"name": 1}]},
     {"attachments": [{"name": "a", "text": "b", "pages": "c"}]}],
)  # fmt: skip
def test_what_another_program_wrote_there_is_passed_over(extra: dict[str, object]) -> None:
    assert attachments_of(extra) == ()


def test_what_was_imported_is_cleaned() -> None:
    value = {"name": "../a`b", "text": "x\0\ud800\r\n", "language": "``` evil"}
    assert Attachment.from_dict(value) == Attachment("a'b", "x\ufffd\n")
