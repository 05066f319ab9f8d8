"""Many pictures in the gallery: its first page and a search as the browser asks for them, and
making the index anew from the files alone."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from backends.image.recipe import save_png
from benchmarks.measure import Bar, Plan, Row
from benchmarks.store import milliseconds
from webui.image.files import PictureFiles
from webui.image.gallery import Gallery
from webui.image.routes import build_picture_routes

PAGE = Bar("gallery: its first page", 300, " ms", digits=1)
SEARCH = Bar("gallery: a search, the slowest of them", 300, " ms", digits=1)
START = Bar("gallery: what a start does with nothing amiss", 1000, " ms", digits=0)
BARS = (PAGE, SEARCH, START)
THINGS = "fox cat harbour mountain robot teapot orchid castle astronaut violin".split()
WAYS = "watercolour photo engraving neon misty golden tiny gigantic broken quiet".split()
SEARCHES = ("fox", "f", "gol", "fox watercolour", '"golden fox"', "picture 777", "nothing-of-this")


def measure(plan: Plan) -> Iterator[Row]:
    home = plan.home("gallery")
    began = time.monotonic()
    fill(home, plan.pictures)
    made = time.monotonic() - began
    gallery = Gallery(home, home / "thumbs")
    try:
        began = time.monotonic()
        gallery.rebuild()
        took = time.monotonic() - began
        size = f"{plan.pictures:,} pictures"
        plan.say(f"  {size} written in {made:.0f} s, their index made in {took:.1f} s")
        app = FastAPI()
        app.include_router(build_picture_routes(gallery))
        with TestClient(app) as client:

            def ask(**params: str) -> None:
                client.get("/api/pictures", params=params).raise_for_status()

            yield PAGE.row(milliseconds(ask), size)
            asked = {words: milliseconds(partial(ask, words=words)) for words in SEARCHES}
            slowest = max(asked, key=lambda words: asked[words])
            yield SEARCH.row(asked[slowest], f"{size}; {slowest!r}", searches=asked)
        yield START.row(milliseconds(gallery.settle), f"{size}; anew from the files {took:.1f} s")
    finally:
        gallery.close()


def fill(home: Path, pictures: int) -> None:
    """Tiny PNGs with a recipe each, through the same doors as any picture, but for the index."""
    from PIL import Image

    clock, dice = iter(range(1_700_000_000, 2**40, 977)), random.Random(1)
    files = PictureFiles(home, home / "thumbs", lambda: next(clock))
    files.making.mkdir(parents=True)
    tiny = Image.new("RGB", (8, 8), (90, 120, 200))
    for number in range(pictures):
        prompt = f"{' '.join(dice.sample(WAYS, 3))} {dice.choice(THINGS)}, picture {number}"
        path = files.making / "picture.png"
        said = {"prompt": prompt, "seed": number, "model": f"hub:a/b{number % 3}@r",
                "width": 8, "height": 8, "steps": 20}  # fmt: skip
        save_png(tiny, path, said)
        files.keep(path)
