"""All pictures that were made here: listed, searched, liked, deleted and brought back.

HOME/pictures holds the PNGs, each with its recipe (webui/image/files.py); HOME/pictures.db is an
index of them. `rebuild` makes the two agree after a killed process, a lost or damaged index, or a
folder that somebody has tidied up by hand. Blocking, so for threads; safe from any of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.models import library
from webui.image.files import GONE, TRASH_SECONDS, PictureFiles, created_of
from webui.image.schema import (
    ADD,
    LISTED,
    MIGRATIONS,
    REBUILD,
    Picture,
    from_recipe,
    picture_of,
    row_of,
)
from webui.store.database import Database, Mending
from webui.store.search import query_of

PAGE, MOST = 60, 500  # pictures of a page, if nothing is said, and at most
BATCH = 200  # rows written in one transaction while the index is made


@dataclass(frozen=True)
class Wanted:
    """Which pictures. `words` as typed; `model` a reference; `since` and `until` in Unix seconds,
    `until` itself left out; `before` the id of the last one that was seen."""

    words: str = ""
    model: str = ""
    since: float | None = None
    until: float | None = None
    favourites: bool = False
    before: str = ""


class Gallery:
    """The pictures of a home. Raises Refused where its index cannot be opened, and wherever the
    disk does not do what it is asked."""

    def __init__(
        self,
        home: Path,
        thumbs: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.files = PictureFiles(home, thumbs or library.cache() / "thumbs", clock)
        self.clock, self._notice = clock, ""
        self._moving = threading.Lock()  # a file and its row change together
        mending = Mending(rebuild=REBUILD)  # a broken file is left: the PNGs know more
        self.database = Database(home / "pictures.db", MIGRATIONS, "pictures", clock, mending)

    @property
    def notice(self) -> str:
        """What the user should know about the index, or nothing."""
        return self.database.notice or self._notice

    def close(self) -> None:
        self.database.close()

    # Adding

    def take(self, made: Path) -> Picture:
        """A PNG that a worker has written into `files.making`, moved into the gallery.

        Where the index does not take it (then `notice` says why), the next `rebuild` finds it.
        """
        if not made.resolve().is_relative_to(self.files.making.resolve()):
            raise Refused("This picture was not made here.", "Draw it again.")
        with self._moving:
            id = self.files.keep(made)
            picture = self._read(id, set()) or Picture(id, created_of(id))
            try:
                with self.database.writing() as db:
                    db.execute(ADD, row_of(picture))
            except Refused as refused:
                self._notice = str(refused)
        return picture

    def rebuild(self) -> int:
        """Make the index say what lies on the disk. Returns how many rows were added or changed.

        Quick where nothing is amiss: only names are read. Others may add and delete meanwhile.
        """
        rows = self._rows()
        unknown = sorted(({*self.files.on_disk()} | self.files.in_trash().keys()) - rows.keys())
        liked = self.files.favourites() if unknown else set()
        added = 0
        for start in range(0, len(unknown), BATCH):
            found = [p for id in unknown[start : start + BATCH] if (p := self._read(id, liked))]
            with self.database.writing() as db:
                added += sum(db.execute(ADD, row_of(picture)).rowcount for picture in found)
        return added + self._agree()

    def _agree(self) -> int:
        """What is known as here, deleted or lost is where it is known to be."""
        with self._moving:
            rows, trash, here = self._rows(), self.files.in_trash(), {*self.files.on_disk()}
            gone = [(trash[id], id) for id in trash.keys() - here if rows.get(id) == 0]
            back = [(id,) for id in here if rows.get(id) == 1]
            lost = [(id,) for id in rows.keys() - here - trash.keys()]
            if gone or back or lost:
                with self.database.writing() as db:
                    db.executemany("UPDATE pictures SET deleted = ? WHERE id = ?", gone)
                    db.executemany("UPDATE pictures SET deleted = NULL WHERE id = ?", back)
                    db.executemany("DELETE FROM pictures WHERE id = ?", lost)
        return len(gone) + len(back) + len(lost)

    def _rows(self) -> dict[str, int]:
        """Every id of the index, with 1 where it is deleted."""
        return dict(self.database.read("SELECT id, deleted IS NOT NULL FROM pictures"))

    def _read(self, id: str, liked: set[str]) -> Picture | None:
        """What the index keeps of a file; None where it cannot be read."""
        try:
            said, size = self.files.said(id)
        except Refused:
            return None
        return from_recipe(id, created_of(id), size, said, id in liked)

    # Looking

    def page(self, wanted: Wanted = Wanted(), limit: int = PAGE) -> list[Picture]:
        """The newest first. The next page is the one `before` the last of these."""
        where, values = _where(wanted)
        rows = self.database.read(
            f"SELECT {LISTED} FROM pictures WHERE {where} ORDER BY id DESC LIMIT ?",
            *values, max(1, min(limit, MOST)),
        )  # fmt: skip
        return [picture_of(row) for row in rows]

    def count(self, wanted: Wanted = Wanted()) -> int:
        """How many there are, on all pages."""
        where, values = _where(replace(wanted, before=""))
        return int(
            self.database.read(f"SELECT count(*) FROM pictures WHERE {where}", *values)[0][0]
        )

    def get(self, id: str) -> Picture:
        """Raises Refused where there is none, or it is deleted."""
        rows = self.database.read(
            f"SELECT {LISTED} FROM pictures WHERE id = ? AND deleted IS NULL", id
        )
        if not rows:
            raise Refused(*GONE)
        return picture_of(rows[0])

    def models(self) -> list[tuple[str, str, int]]:
        """Every model that pictures were made with: reference, title, how many; the most first."""
        rows = self.database.read(
            "SELECT model, max(model_title), count(*) FROM pictures WHERE deleted IS NULL"
            " AND model <> '' GROUP BY model ORDER BY count(*) DESC, model"
        )
        return [(str(model), str(title or model), int(count)) for model, title, count in rows]

    def deleted(self, limit: int = PAGE) -> list[Picture]:
        """What `restore` can bring back, deleted last first."""
        rows = self.database.read(
            f"SELECT {LISTED} FROM pictures WHERE deleted IS NOT NULL"
            " ORDER BY deleted DESC, id DESC LIMIT ?",
            limit,
        )
        return [picture_of(row) for row in rows]

    def path(self, id: str) -> Path:
        """The PNG itself, to begin a picture with, or to hand over."""
        return self.files.path(id)

    def thumb(self, id: str) -> Path:
        """A WebP of at most 384 px, made where it is missing."""
        return self.files.thumb(id)

    def recipe(self, id: str) -> dict[str, Any]:
        """What the PNG says of itself: what another one is drawn with."""
        return self.files.said(id)[0]

    # Changing

    def favourite(self, id: str, on: bool = True) -> None:
        self.files.path(id)  # refuses what is not there
        self.files.like(id, on)
        with self.database.writing() as db:
            db.execute("UPDATE pictures SET favourite = ? WHERE id = ?", (int(on), id))

    def delete(self, id: str) -> None:
        """Into the trash, from where `restore` brings it back within a day; asked twice, once."""
        with self._moving:
            self.files.throw_away(id)
            with self.database.writing() as db:
                db.execute(
                    "UPDATE pictures SET deleted = ? WHERE id = ? AND deleted IS NULL",
                    (self.clock(), id),
                )

    def restore(self, id: str) -> None:
        with self._moving:
            self.files.bring_back(id)
            with self.database.writing() as db:
                db.execute("UPDATE pictures SET deleted = NULL WHERE id = ?", (id,))

    def empty_trash(self, seconds: float = TRASH_SECONDS) -> int:
        """Remove for good what was deleted so long ago. Returns how many pictures went."""
        with self._moving:
            gone = [(id,) for id in self.files.empty_trash(seconds)]
            if gone:
                with self.database.writing() as db:
                    db.executemany("DELETE FROM pictures WHERE id = ?", gone)
        return len(gone)

    def settle(self) -> None:
        """At start: what was finished when the page was killed comes in, the index agrees with the
        disk, and what was deleted a day ago goes. Only while nothing is made. Never raises: then
        `notice` says why."""
        deeds = (self._take_left, self.files.clear_making, self.rebuild, self.empty_trash)
        for deed in deeds:  # what one of them meets keeps none of the others from theirs
            try:
                deed()
            except Refused as refused:
                self._notice = str(refused)
            except OSError as error:
                place = error.filename or self.files.folder
                self._notice = (
                    f"{place} cannot be read or written ({error.strerror or error}). Check who may "
                    "read and write there."
                )

    def _take_left(self) -> None:
        for made in self.files.left():
            self.take(made)


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    """SQL and its values. Words that say nothing (a lone bracket) find nothing."""
    parts: list[str] = ["deleted IS NULL"]
    values: list[Any] = []
    if wanted.words.strip():
        parts.append(
            "number IN (SELECT rowid FROM picture_words WHERE picture_words MATCH ?)"
            if (query := query_of(wanted.words))
            else "0"
        )
        values += [query] if query else []
    for value, sql in (
        (wanted.model or None, "model = ?"),
        (wanted.before or None, "id < ?"),
        (wanted.since, "created >= ?"),
        (wanted.until, "created < ?"),
    ):
        if value is not None:
            parts.append(sql)
            values.append(value)
    if wanted.favourites:
        parts.append("favourite = 1")
    return " AND ".join(parts), values
