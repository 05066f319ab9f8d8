"""benchmarks/emoji_zip.py: the dataset of the starter model, made again from its package."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from benchmarks import emoji_zip

NAMES = {"🔥": "fire", "👍": "thumbs up", "🇦🇺": "Australia"}


def package(folder: Path) -> Path:
    """As npm packs it: a picture of each name, one of a skin tone, one that is no emoji."""
    made = folder / "package.tgz"
    with tarfile.open(made, "w:gz") as archive:
        stems = ("1f525", "1f44d", "1f44d-1f3fb", "1f1e6-1f1fa", "1f3f4-e0067_e0062", "00a9")
        for number, stem in enumerate(stems):
            out = io.BytesIO()
            Image.new("RGBA", (256, 256), (40 * number, 0, 0, 128)).save(out, "WEBP")
            entry = tarfile.TarInfo(f"package/assets/{stem}.webp")
            entry.size = out.tell()
            archive.addfile(entry, io.BytesIO(out.getvalue()))
    return made


def test_it_makes_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = package(tmp_path)
    for name in ("one.zip", "two.zip"):
        assert emoji_zip.build(made, tmp_path / name, lambda sign: NAMES.get(sign, "")) == 3
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
        with Image.open(io.BytesIO(archive.read("images/1f525.webp"))) as image:
            assert image.size == (128, 128) and image.mode == "RGB"
            assert all(abs(value - 127) < 3 for value in image.getpixel((64, 64)))  # type: ignore[union-attr, operator]
        assert "MIT" in archive.read("LICENSE.txt").decode()
    assert [row["text"] for row in rows] == ["Australia", "thumbs up", "fire"]


def test_differences_are_named(tmp_path: Path) -> None:
    made = package(tmp_path)
    emoji_zip.build(made, tmp_path / "one.zip", lambda sign: NAMES.get(sign, ""))
    emoji_zip.build(made, tmp_path / "two.zip", lambda sign: NAMES.get(sign, "").upper())
    assert not emoji_zip.differences(tmp_path / "one.zip", tmp_path / "one.zip")
    assert len(emoji_zip.differences(tmp_path / "one.zip", tmp_path / "two.zip")) == 3
