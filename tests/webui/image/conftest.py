"""A gallery with a clock of its own, and PNGs as a worker writes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.image.recipe import save_png
from webui.image.gallery import Gallery

Make = Callable[..., Path]


@pytest.fixture
def clock() -> Callable[[], float]:
    """Goes on by a second at each look."""
    seconds = itertools.count(1_700_000_000.0)
    return lambda: next(seconds)


@pytest.fixture
def gallery(home: Path, clock: Callable[[], float]) -> Iterator[Gallery]:
    made = Gallery(home, home / "cache" / "thumbs", clock)
    yield made
    made.close()


@pytest.fixture
def make(home: Path) -> Make:
    """A finished picture where workers write: `make(prompt=…, seed=…)`."""
    numbers = itertools.count(1)

    def made(size: tuple[int, int] = (16, 8), **said: Any) -> Path:
        folder = home / "pictures" / ".making" / "run"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"picture-{next(numbers)}.png"
        save_png(Image.new("RGB", size, (200, 30, 30)), path, said)
        return path

    return made
