"""The sheet of a grid."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from webui.image.sheet import MOST_PIXELS, draw_sheet, fitting


def square(path: Path, colour: str, size: tuple[int, int] = (64, 64)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_every_picture_stands_in_its_place(tmp_path: Path) -> None:
    pictures = {
        (0, 0, 0): square(tmp_path / "a.png", "red"),
        (1, 0, 0): square(tmp_path / "b.png", "blue"),
        (0, 1, 0): square(tmp_path / "c.png", "lime"),
    }
    sheet = draw_sheet(pictures, (("Steps: 1", "Steps: 2"), ("A", "B"), ("",)), (64, 64))
    left = sheet.width - 2 * (64 + 8)
    seen = [
        sheet.getpixel((left + x * 72 + 32, 20 + y * 72 + 32)) for y in range(2) for x in range(2)
    ]
    assert seen == [(255, 0, 0), (0, 0, 255), (0, 255, 0), (221, 221, 221)]
    assert 0 < left < 64 and sheet.height == 20 + 2 * 72


def test_labels_of_any_length_and_sign_are_drawn(tmp_path: Path) -> None:
    long = "Öl, 狐 🦊 " * 40 + "x" * 400
    sheet = draw_sheet({}, ((long, long), (long,), (long, "")), (48, 48))
    assert sheet.getextrema() != ((255, 255),) * 3


def test_a_torn_picture_stays_grey(tmp_path: Path) -> None:
    torn = square(tmp_path / "a.png", "red", (300, 300))
    torn.write_bytes(torn.read_bytes()[:200])
    sheet = draw_sheet({(0, 0, 0): torn}, (("",), ("",), ("",)), (64, 64))
    assert sheet.getpixel((32, 32)) == (221, 221, 221)


def test_a_large_grid_is_made_to_fit() -> None:
    width, height = fitting((1024, 512), 500)
    assert width * height * 500 <= MOST_PIXELS and abs(width / height - 2) < 0.02
    assert fitting((512, 512), 9) == (512, 512)
