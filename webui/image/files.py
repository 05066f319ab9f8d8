"""Where pictures lie, by their ids alone: no path ever comes from a browser.

    HOME/pictures/<yyyy-mm>/<id>.png    the picture with its recipe: the truth
    HOME/pictures/.trash/<id>.png       deleted, until a day later
    HOME/pictures/.making/              where workers write, before `take`
    HOME/pictures/favourites.json       replaced whole: a PNG does not say who likes it
    CACHE/thumbs/<id>.webp              made again where one is missing

An id is the moment, in UTC, with four random digits: `20260131-235959-999-a1b2`. Ids sort by time.
Blocking: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.image.png_text import PngText, read_png
from backends.image.recipe import OWN
from backends.models.gguf_copy import FULL_DISK
from backends.runtime.disk import read_json, sync_folder, write_json

ID = re.compile(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{4}")
MONTH = re.compile(r"\d{4}-\d{2}")
TRASH_SECONDS = 86_400.0
THUMB_SIDE = 384  # px of the longer side: sharp at 192 on a screen with two pixels each
THUMB_PIXELS = 70_000_000  # of a picture that is shrunk in this process, 200 MB as RGB
DAMAGED = ("The file of this picture is damaged.", "Draw it again.")
GONE = ("This picture is not there any more.", "Reload the gallery.")


class PictureFiles:
    """The folder `HOME/pictures`. Safe from any thread."""

    def __init__(self, home: Path, thumbs: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.thumbs, self.clock = home / "pictures", thumbs, clock
        self.trash, self.making = self.folder / ".trash", self.folder / ".making"
        self._lock = threading.Lock()
        self._last = 0  # ms of the newest id
        self._shrinking = threading.BoundedSemaphore(2)  # of a large one each takes 200 MB

    # Ids and places

    def new_id(self) -> str:
        """Later than every one before it."""
        with self._lock:
            self._last = max(self._last + 1, int(self.clock() * 1000))
            seconds, ms = divmod(self._last, 1000)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
        return f"{stamp}-{ms:03d}-{secrets.token_hex(2)}"

    def place(self, id: str) -> Path:
        """Where the picture of that id lies, or would. Raises Refused for what is no id."""
        if not ID.fullmatch(id):
            raise Refused(*GONE)
        return self.folder / f"{id[:4]}-{id[4:6]}" / f"{id}.png"

    def path(self, id: str) -> Path:
        """The file. Raises Refused where there is none."""
        place = self.place(id)
        if not place.is_file():
            raise Refused(*GONE)
        return place

    def on_disk(self) -> Iterator[str]:
        """The ids of all that are not deleted, in no order."""
        for month in _names(self.folder):
            if MONTH.fullmatch(month):
                for name in _names(self.folder / month):
                    if ID.fullmatch(id := name.removesuffix(".png")) and name != id:
                        if self.place(id).parent.name == month:
                            yield id

    def in_trash(self) -> dict[str, float]:
        """The ids of all that are deleted, with when, in Unix seconds."""
        found = {}
        for name in _names(self.trash):
            if name.endswith(".png") and ID.fullmatch(name[:-4]):
                with contextlib.suppress(OSError):
                    found[name[:-4]] = (self.trash / name).stat().st_mtime
        return found

    # Moving

    def keep(self, made: Path) -> str:
        """A finished PNG, moved here; returns its new id. Raises Refused."""
        id = self.new_id()
        place = self.place(id)
        with self._refusing():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.replace(made, place)
            sync_folder(place.parent)
        return id

    def throw_away(self, id: str) -> None:
        """Into the trash. Raises Refused where it is neither here nor there."""
        place = self.place(id)
        with self._refusing():
            self.trash.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                os.utime(place, (self.clock(), self.clock()))  # before: it must not look a day old
                os.replace(place, self.trash / place.name)
        if not (self.trash / place.name).exists():
            raise Refused(*GONE)

    def bring_back(self, id: str) -> None:
        """Out of the trash; nothing where it is here. Raises Refused where that day is over."""
        place = self.place(id)
        with self._refusing():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.trash / place.name, place)
        if not place.exists():
            raise Refused("It cannot be brought back: it is gone for good.", "Draw it again.")

    def empty_trash(self, seconds: float = TRASH_SECONDS) -> list[str]:
        """Remove for good what was deleted so long ago. Returns the ids."""
        old = [id for id, when in self.in_trash().items() if self.clock() - when > seconds]
        for id in old:
            (self.trash / f"{id}.png").unlink(missing_ok=True)
            (self.thumbs / f"{id}.webp").unlink(missing_ok=True)
        return old

    def left(self) -> list[Path]:
        """Finished pictures that a killed page has not taken from its workers any more."""
        found = []
        for folder in _names(self.making):
            for name in sorted(_names(self.making / folder)):
                path = self.making / folder / name
                if name.endswith(".png") and not name.startswith(".") and _recipe_of(path):
                    found.append(path)
        return found

    def clear_making(self) -> None:
        """The rest that a killed worker has left. Only while nothing is made."""
        for name in _names(self.making):
            shutil.rmtree(self.making / name, ignore_errors=True)

    # Reading

    def said(self, id: str) -> tuple[dict[str, Any], tuple[int, int]]:
        """The recipe in the PNG ({} where it has none), and its size; of one in the trash, too.

        Raises Refused, as for what is no PNG.
        """
        with self._refusing(), self._source(id).open("rb") as file:
            found = read_png(file, before_pixels=True)
        if found is None:
            raise Refused(*DAMAGED)
        return _parsed(found), (found.width, found.height)

    def _source(self, id: str) -> Path:
        """Where it lies, deleted or not."""
        place = self.place(id)
        return place if place.exists() else self.trash / place.name

    def favourites(self) -> set[str]:
        listed = read_json(self.folder / "favourites.json").get("favourites")
        return {id for id in listed if isinstance(id, str)} if isinstance(listed, list) else set()

    def like(self, id: str, on: bool) -> None:
        """Raises Refused where the disk refuses."""
        with self._lock, self._refusing():
            liked = self.favourites()
            if (id in liked) != on:
                liked ^= {id}
                value = {"favourites": sorted(liked)}
                write_json(self.folder / "favourites.json", value, durable=True)

    def thumb(self, id: str) -> Path:
        """A small WebP of the picture, made where it is missing. Raises Refused.

        Made in this process: a PNG of our own folder was written by our own worker.
        """
        small, source = self.thumbs / f"{id}.webp", self._source(id)
        if not small.is_file():
            with self._shrinking, self._refusing():
                self.thumbs.mkdir(parents=True, exist_ok=True, mode=0o700)
                shrink(source, small)
        return small

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """The one funnel for errors of the disk."""
        try:
            yield
        except FileNotFoundError as error:
            raise Refused(*GONE) from error
        except OSError as error:
            if error.errno in FULL_DISK:
                hint = "Free some space, then try again."
                raise Refused(f"The disk of {self.folder} is full.", hint) from error
            raise Refused(
                f"{self.folder} cannot be read or written ({error.strerror or error}).",
                "Check who may read and write there.",
            ) from error


def created_of(id: str) -> float:
    """Unix seconds."""
    try:
        return timegm(time.strptime(id[:15], "%Y%m%d-%H%M%S")) + int(id[16:19]) / 1000
    except (ValueError, OverflowError):
        return 0.0  # a file that somebody named so


def shrink(source: Path, small: Path) -> None:
    """Write a small WebP of a PNG, whole or not at all. Raises OSError, and Refused for what
    cannot be shown small."""
    from PIL import Image

    with source.open("rb") as file:
        size = read_png(file, before_pixels=True) or PngText()
    if size.width * size.height > THUMB_PIXELS:
        raise Refused("This picture is too large for a small one.", "Save it to look at it.")
    partial = small.with_name(f".{small.name}.{secrets.token_hex(4)}.partial")
    try:
        with Image.open(source, formats=("PNG",)) as picture:
            picture.thumbnail((THUMB_SIDE, THUMB_SIDE), reducing_gap=2.0)
            plain = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
            plain.save(partial, "WEBP", quality=80, method=2)
        os.replace(partial, small)
    except (OSError, SyntaxError, ValueError) as error:
        if getattr(error, "errno", None):  # the disk; Pillow's own have none
            raise
        raise Refused(*DAMAGED) from error
    finally:
        partial.unlink(missing_ok=True)


def _recipe_of(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return _parsed(read_png(file, before_pixels=True) or PngText())
    except OSError:
        return {}


def _parsed(found: PngText) -> dict[str, Any]:
    try:
        said = json.loads(found.texts.get(OWN, "{}"), parse_constant=lambda _: None)  # no NaN
    except (ValueError, RecursionError):
        said = {}
    return said if isinstance(said, dict) else {}


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
