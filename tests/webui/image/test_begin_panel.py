"""What was painted becomes one mask: white where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from backends.base import Refused
from webui.image.begin_panel import mask_of


def layer(path: Path, *boxes: tuple[int, int, int, int], size: tuple[int, int] = (40, 20)) -> Path:
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, fill=(255, 255, 255, 255))
    picture.save(path)
    return path


def test_the_strokes_of_all_layers_are_white_and_the_rest_is_black(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "a.png", (0, 0, 9, 9)), layer(tmp_path / "b.png", (30, 0, 39, 9))]
    made = mask_of(layers, tmp_path / "masks")
    with Image.open(made) as mask:
        assert (mask.mode, mask.size) == ("L", (40, 20))
        assert [mask.getpixel(at) for at in ((5, 5), (35, 5), (20, 5))] == [255, 255, 0]


def test_where_nothing_was_painted_there_is_no_mask(tmp_path: Path) -> None:
    assert mask_of([layer(tmp_path / "a.png")], tmp_path / "masks") == ""
    assert mask_of([], tmp_path / "masks") == ""
    assert not (tmp_path / "masks").exists()


def test_a_broken_layer_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(Refused, match="Paint it again"):
        mask_of([tmp_path / "a.png"], tmp_path / "masks")
