"""Dragged files become a model of the user's own, or are refused and leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import pytest

from backends.base import Refused
from backends.models import adding, library
from backends.models.adding import add_uploads, clean_name
from tests.backends.models import crafted


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WERKBANK_HOME", str(tmp_path / "Zuhaüse"))
    folder = tmp_path / "Zuhaüse" / "werkbank-tmp" / "gradio"
    folder.mkdir(parents=True)
    return folder


def upload(uploads: Path, name: str, content: bytes) -> Path:
    folder = uploads / f"{len(list(uploads.iterdir()))}"
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder / name


def refused(files: list[Path], uploads: Path, name: str = "") -> Refused:
    with pytest.raises(Refused) as caught:
        add_uploads(files, uploads, name)
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    models = library.models_folder()
    assert not models.exists() or list(models.iterdir()) == []  # nothing is left
    return caught.value


def test_one_file_is_moved_checked_and_can_be_named(uploads: Path) -> None:
    file = upload(uploads, "Mein Modell ü.GGUF", crafted.gguf())
    ref = add_uploads([file], uploads)
    assert library.locate(ref).name == "Mein Modell ü.gguf" and not file.exists()
    library.check(ref)
    again = add_uploads([upload(uploads, "Mein Modell ü.gguf", crafted.gguf())], uploads)
    assert again != ref and library.locate(again).name == "Mein Modell ü-2.gguf"


def test_a_folder_of_files_becomes_one_model(uploads: Path) -> None:
    config = json.dumps(crafted.CONFIG).encode()
    files = [
        upload(uploads, "config.json", config),
        upload(uploads, "model.safetensors", crafted.safetensors()),
        upload(uploads, "tokenizer.json", b"{}"),
        upload(uploads, "setup.py", b"import evil"),
    ]
    ref = add_uploads(files, uploads, "../../My: model")
    folder = library.locate(ref)
    assert folder.parent == library.models_folder() and folder.name == "My- model"
    assert {f.name for f in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


WHOLE = crafted.safetensors()
HEADER = struct.unpack("<Q", WHOLE[:8])[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.safetensors", b"", "empty"),
        ("m.safetensors", WHOLE[:-1], "incomplete"),
        ("m.safetensors", WHOLE[: len(WHOLE) // 2], "incomplete"),
        ("m.safetensors", WHOLE[:8] + b"\x00" + WHOLE[9:], "file of an unknown kind"),
        ("m.safetensors", WHOLE[:12] + bytes([WHOLE[12] ^ 0x80]) + WHOLE[13:], "damaged"),
        ("m.safetensors", struct.pack("<Q", 2**40) + WHOLE[8:], "claims to be"),
        ("m.safetensors", struct.pack("<Q", HEADER + 9) + WHOLE[8:], "damaged"),
        ("m.gguf", crafted.gguf(data=10), "incomplete|shorter|bytes"),
        ("m.gguf", crafted.gguf(tensor_count=2**40), "."),
        ("m.gguf", crafted.gguf(pair_count=2**60), "."),
        ("m.gguf", crafted.gguf(magic=b"GGML"), "unknown kind"),
        ("m.gguf", b"<html>log in</html>", "web page"),
        ("m.safetensors", b"PK\x03\x04rest", "zip archive"),
    ],
)
def test_a_header_that_lies_is_refused_before_it_is_moved(
    uploads: Path, name: str, content: bytes, said: str
) -> None:
    import re

    found = refused([upload(uploads, name, content)], uploads)
    assert re.search(said, found.message)


@pytest.mark.parametrize("folder", [False, True])
def test_what_took_the_name_a_moment_before_is_not_written_over(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    files = [upload(uploads, "a.safetensors", crafted.safetensors())]
    files += [upload(uploads, "config.json", b"{}")] * folder
    free, seen = adding._free, list[Path]()

    def late(place: Path, name: str) -> Path:
        path = free(place, name)
        if place == library.models_folder() and not seen:
            seen.append(path)
            (path / "theirs" if folder else path).parent.mkdir(exist_ok=True)
            (path / "theirs" if folder else path).write_bytes(b"another's")
        return path

    monkeypatch.setattr(adding, "_free", late)
    ref = add_uploads(files, uploads)
    (theirs,) = seen
    assert (theirs / "theirs" if folder else theirs).read_bytes() == b"another's"
    assert library.locate(ref) != theirs and library.locate(ref).exists()


def test_a_pickle_is_sent_to_be_converted(uploads: Path) -> None:
    found = refused([upload(uploads, "old.ckpt", b"\x80\x02.")], uploads)
    assert "could run code" in found.message and "Convert" in found.hint
    refused([upload(uploads, "notes.txt", b"hello")], uploads)
    refused([], uploads)


def test_only_what_lies_among_the_uploads_is_taken(uploads: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(crafted.gguf())
    sibling = uploads.with_name("gradio-evil")
    sibling.mkdir()
    (sibling / "m.gguf").write_bytes(crafted.gguf())
    (uploads / "link.gguf").symlink_to(secret)
    for path in (
        secret,
        sibling / "m.gguf",
        uploads / "link.gguf",
        uploads / ".." / "gradio-evil" / "m.gguf",
        uploads,
        uploads / "gone.gguf",
        Path("x\0y.gguf"),
    ):
        refused([path], uploads)
    assert secret.exists() and (sibling / "m.gguf").exists()


def test_a_full_disk_leaves_nothing(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(adding.shutil, "move", full)
    assert "full" in refused([upload(uploads, "m.gguf", crafted.gguf())], uploads).message


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("model.GGUF", "model.gguf"),
        ("../../etc/passwd.gguf", "passwd.gguf"),
        ("C:\\Users\\me\\m.safetensors", "m.safetensors"),
        (".hidden.gguf", "hidden.gguf"),
        ("con.gguf", "model-con.gguf"),
        ("a\u202egpj.gguf", "a gpj.gguf"),
        ('a<b>:"c|d?*.gguf', "a-b---c-d--.gguf"),
        ("", "model"),
        ("...", "model"),
        ("x" * 300 + ".gguf", "x" * 80 + ".gguf"),
        ("ä\udc80.gguf", "ä.gguf"),
    ],
)
def test_names_are_fit_for_every_system(given: str, clean: str) -> None:
    assert clean_name(given) == clean
