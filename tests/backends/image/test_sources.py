"""Pictures that come in: whatever they are, they are opened safely or refused in two sentences."""

from __future__ import annotations

import struct
import zlib

import numpy
import pytest
from PIL import Image

from backends.base import Refused
from backends.image import sources


@pytest.fixture
def striped():
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (40, 20), (200, 10, 10))
    picture.paste((10, 10, 200), (20, 0, 40, 20))
    return picture


def test_a_picture_is_turned_upright(striped, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    striped.save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = sources.open_picture(tmp_path / "a.jpg").picture
    assert picture.size == (20, 40) and picture.mode == "RGB"
    assert picture.getpixel((10, 5))[0] > 150 and picture.getpixel((10, 35))[2] > 150


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode, striped, tmp_path) -> None:
    ending = "tiff" if mode == "CMYK" else "png"
    striped.convert(mode).save(tmp_path / f"a.{ending}")
    picture = sources.open_picture(tmp_path / f"a.{ending}").picture
    assert picture.mode == "RGB" and picture.size == (40, 20)
    left, right = picture.getpixel((5, 5)), picture.getpixel((35, 5))
    assert left != right


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_and_not_cut(mode, tmp_path) -> None:
    values = numpy.array([[0, 32768, 65535]], "uint16" if mode == "I;16" else "int32")
    Image.fromarray(values).save(tmp_path / "a.tiff")
    picture = sources.open_picture(tmp_path / "a.tiff").picture
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_what_is_transparent_lies_on_white(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert sources.open_picture(tmp_path / "a.png").picture.getpixel((1, 1)) == (255, 255, 255)


def test_of_a_moving_picture_the_first_frame_is_used_and_that_is_said(striped, tmp_path) -> None:
    striped.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (40, 20))])
    opened = sources.open_picture(tmp_path / "a.gif")
    assert opened.picture.getpixel((5, 5))[0] > 150
    assert opened.notices == ["a.gif moves: its first frame is used."]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif"])
def test_half_a_picture_is_refused_in_two_sentences(ending, striped, tmp_path) -> None:
    file = tmp_path / f"a.{ending}"
    striped.resize((300, 200)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(Refused, match="damaged or incomplete") as refused:
        sources.open_picture(file)
    assert refused.value.hint.endswith(".")


@pytest.mark.parametrize(
    "text", ["<svg xmlns='x'/>", "<?xml version='1.0'?><svg/>", "\ufeff <!DOCTYPE svg><svg/>"]
)
def test_an_svg_is_refused_by_name(text, tmp_path) -> None:
    (tmp_path / "a.png").write_text(text, "utf-8")
    with pytest.raises(Refused, match=r"SVG.*PNG"):
        sources.open_picture(tmp_path / "a.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    file = tmp_path / "bomb.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(Refused, match=r"too large|30000 x 30000"):
        sources.open_picture(file)


def test_a_text_and_a_missing_file_are_refused(tmp_path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(Refused, match="not a picture of a kind"):
        sources.open_picture(tmp_path / "a.png")
    with pytest.raises(Refused, match="cannot be read"):
        sources.open_picture(tmp_path / "b.png")


def test_another_shape_is_cut_evenly_and_that_is_said(striped) -> None:
    same, said = sources.fitted(striped, 80, 40)
    assert same.size == (80, 40) and said == ""
    cut, said = sources.fitted(striped, 20, 20)
    assert cut.size == (20, 20) and "40 x 20" in said and said.endswith(".")
    assert cut.getpixel((1, 10))[0] > 150 and cut.getpixel((18, 10))[2] > 150


def test_an_empty_mask_is_refused(tmp_path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(Refused, match="mask is empty"):
        sources.open_mask(tmp_path / "a.png", 8, 8)


def test_an_extended_picture_keeps_the_old_one_and_masks_what_is_new(striped) -> None:
    canvas, mask = sources.extended(striped, (8, 0, 12, 0))
    assert canvas.size == mask.size == (64, 24)  # rounded up, at the right and below
    old = numpy.asarray(canvas)[:20, 8:48]
    assert numpy.array_equal(old, numpy.asarray(striped))
    white = numpy.asarray(mask)
    assert white[:, :8].min() == 255 and white[:, 48:].min() == 255 and white[20:].min() == 255
    assert white[2, 30] == 0 and white[2, 9] == 255  # a little of the old one beside the seam
    assert canvas.getpixel((0, 5)) == (200, 10, 10)  # its edge, drawn out


def test_an_extension_that_is_too_large_is_refused(striped) -> None:
    with pytest.raises(Refused, match="too large"):
        sources.extended(striped, (20_000, 2000, 0, 0))
