"""A picture that was dropped onto the page."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from backends.base import Refused
from tests.backends.image.foreign_files import A1111, png, text
from webui.image.foreign import Foreign, read_picture


def drop(folder: Path, data: bytes, name: str = "Füchse.png") -> Foreign:
    (folder / name).write_bytes(data)
    return asyncio.run(read_picture(folder / name, folder))


def test_its_recipe_comes_back(tmp_path: Path) -> None:
    found = drop(tmp_path, png(text("parameters", A1111), size=(30, 20)))
    assert (found.recipe["seed"], found.kind, found.width, found.height) == (
        123456789, "PNG", 30, 20
    )  # fmt: skip


def test_one_without_says_so_and_no_picture_is_refused(tmp_path: Path) -> None:
    found = drop(tmp_path, png())
    assert found.recipe == {} and "no recipe" in found.note
    with pytest.raises(Refused, match="no PNG, JPEG or WebP"):
        drop(tmp_path, b"GIF89a")


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    for path in (tmp_path / "secret.png", tmp_path / "in" / "link.png", tmp_path / "in" / "gone"):
        with pytest.raises(Refused):
            asyncio.run(read_picture(path, tmp_path / "in"))


def test_a_reader_that_dies_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Refused, match="could not be read"):
        drop(tmp_path, png())
