"""backends/finetune/pictures/: what is read of a dataset of pictures, and what is left out."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.base import Refused
from backends.events import Progress
from backends.finetune.pictures import captions, files, reading
from backends.finetune.pictures.reading import Pictures
from backends.runtime import job_spec
from tests.backends.finetune.diffusion_made import as_zip, draw


def read(path: Path, side: int = 16, captioned: bool = True) -> Pictures:
    events = reading.read(path, side, captioned, lambda: False)
    while True:
        try:
            assert isinstance(next(events), Progress)
        except StopIteration as end:
            made = end.value
            assert isinstance(made, Pictures)
            return made


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def test_a_folder_and_a_zip_are_the_same(tmp_path: Path) -> None:
    rows = draw(tmp_path / "set")
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = read(tmp_path / "set")
    packed = read(as_zip(tmp_path / "set", tmp_path / "set.zip"))
    assert folder.captions == packed.captions == [row["text"] for row in rows]
    assert folder.names == packed.names and (folder.pixels == packed.pixels).all()
    assert folder.pixels.shape == (12, 3, 16, 16) and folder.pixels.dtype.is_floating_point is False


def test_captions_come_from_beside_or_from_the_name(tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "00.png").rename(tmp_path / "0012_red-heart.png")
    by_name = read(tmp_path)
    assert by_name.captions == ["red heart"] and len(by_name.left_out) == 11
    assert by_name.left_out[0] == ("01.png", "it has no caption")
    assert "11 left out, since it has no caption: 01.png" in by_name.notices()[0]
    (tmp_path / "03.txt").write_text("  a yellow\n circle ")
    assert read(tmp_path).captions == ["a yellow circle"]
    assert len(read(tmp_path, captioned=False)) == 12


def test_names_are_cleaned() -> None:
    made = ["0001.png", "a/b_c-D.webp", "12 red heart 3.jpg", "red.heart.png"]
    assert [captions.of_name(n) for n in made] == ["", "b c D", "red heart", "red heart"]


def test_a_wrong_line_of_the_metadata_is_named(tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "x"}\n{"a": 1}')
    with pytest.raises(Refused, match=r"Line 2 of metadata.jsonl"):
        read(tmp_path)


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    draw(tmp_path)
    whole = (tmp_path / "05.png").read_bytes()
    (tmp_path / "05.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "06.png").write_bytes(b"no picture")
    (tmp_path / "07.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')
    made = read(tmp_path, captioned=False)
    assert len(made) == 9 and len(made.left_out) == 4
    assert dict(made.left_out) == {
        "gone.png": "there is no such picture", "05.png": dict(made.left_out)["05.png"],
        "06.png": "it is no picture that can be read",
        "07.png": "it is no picture that can be read",
    }  # fmt: skip
    assert dict(made.left_out)["05.png"] in ("it is cut off", "it is damaged")


def test_a_bomb_of_pixels_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path)
    monkeypatch.setattr(reading, "MOST_PIXELS", 500)
    Image.new("L", (30, 30)).save(tmp_path / "99 big.png")
    assert dict(read(tmp_path, captioned=False).left_out)["99 big.png"].startswith("it has more")


def test_pictures_of_every_mode_become_rgb_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert reading.as_square(clear, 8).getpixel((4, 4)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0] + [0] * 765)
    assert reading.as_square(palette, 8).getpixel((4, 4)) == (255, 0, 0)
    deep = Image.open(io.BytesIO(encoded(Image.new("I;16", (8, 8), 65535))))
    assert reading.as_square(deep, 8).getpixel((4, 4)) == (255, 255, 255)
    cmyk = Image.open(io.BytesIO(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")))
    assert max(reading.as_square(cmyk, 8).getpixel((4, 4))) < 10
    assert reading.as_square(Image.new("LA", (9, 5), (0, 255)), 8).size == (8, 8)


def test_a_picture_is_turned_and_its_middle_is_kept() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    turned = Image.open(io.BytesIO(encoded(image, "JPEG", exif=exif, quality=95)))
    whole = reading.as_square(turned, 20)
    assert whole.size == (20, 20)
    assert min(whole.getpixel((10, 10))) > 240  # the red end lies above the middle
    upright = reading.as_square(image.crop((0, 0, 20, 20)), 20)
    assert upright.getpixel((3, 10)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [("../x.png", "would leave its folder"), ("/x.png", "would leave its folder"),
     ("a\\..\\..\\x.png", "would leave its folder"), ("C:/x.png", "would leave its folder")],
)  # fmt: skip
def test_a_zip_that_would_leave_its_folder_is_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), encoded(Image.new("RGB", (4, 4))))
    with pytest.raises(Refused, match=words):
        read(tmp_path / "a.zip")


def test_links_and_bombs_and_other_files_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Refused, match="is a link"):
        read(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", b"\0" * 3 * 2**20)
    with pytest.raises(Refused, match="unpacks to more"):
        read(tmp_path / "bomb.zip")
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with pytest.raises(Refused, match="no ZIP"):
        read(tmp_path / "no.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="has no picture"):
        read(tmp_path / "empty")
    with pytest.raises(Refused, match="is not there"):
        read(tmp_path / "gone")


def test_a_damaged_entry_of_a_zip_is_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "set")
    file = as_zip(tmp_path / "set", tmp_path / "set.zip")
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        at = archive.infolist()[3].header_offset + 60
    data[at] ^= 0xFF
    file.write_bytes(data)
    made = read(file, captioned=False)
    assert len(made) == 11 and made.left_out[0][0] == "03.png"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "set")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "set" / "x.png")
    with pytest.raises(Refused, match="leads out"):
        read(tmp_path / "set")


def test_a_job_knows_a_folder_of_pictures_that_has_changed(tmp_path: Path) -> None:
    draw(tmp_path / "set")
    spec = {"task": "finetune", "method": "diffusion", "base": "none:", "name": "x",
            "dataset": str(tmp_path / "set"), "params": {"kind": "gan", "side": 32}}  # fmt: skip
    known = job_spec.with_hashes(spec)
    assert known["dataset_sha256"] == files.sha256(tmp_path / "set")
    job_spec.same_dataset(known)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "set" / "00.png")
    with pytest.raises(Refused, match="has changed"):
        job_spec.same_dataset(known)
    asked = job_spec.understand(spec, tmp_path)
    assert asked.params.folder == str(tmp_path) and asked.params.dataset == spec["dataset"]
