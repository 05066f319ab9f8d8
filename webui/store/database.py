"""One SQLite file: opened, migrated, set aside when broken, its errors told as sentences.

Two connections, a lock for each: one writes, one reads, so that reading goes on while a write
waits for another program. WAL with `synchronous = NORMAL`: what was committed survives `kill -9`;
a power cut may cost the last moment.

Safe from any thread. On an event loop, which everybody shares, a call waits for others only a
moment; in a thread it has patience.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused
from webui.store.salvage import salvage

PATIENCE = 5.0  # seconds to wait for another program's lock, in a thread
LOOP_PATIENCE = 0.2  # the same on an event loop
ALWAYS_CHECKED = 32 * 2**20  # bytes; checking reads the whole file, which a large one does not pay
BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


@dataclass(frozen=True)
class Mending:
    """What to do with a damaged file. `tables`: copied as far as they can be read, in this order;
    `after` makes their references whole; `rebuild` makes indexes anew where the rest is sound."""

    tables: tuple[str, ...] = ()
    after: str = ""
    rebuild: str = ""


class Database:
    """The file at `path`, made where it is missing.

    `migrations[n]` is a script that brings version n to n + 1 (`PRAGMA user_version`); a copy is
    kept before an old file is migrated. `contents` names what is in it, for the sentences. A broken
    file is set aside, also when it is found so in use; what can still be read of it is taken over,
    and `notice` says so. Raises Refused for a file that a newer program wrote, and for one that
    cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        contents: str,
        clock: Callable[[], float] = time.time,
        mending: Mending | None = None,
    ) -> None:
        self.path, self.migrations, self.contents = path, migrations, contents
        self.clock, self.notice, self.mending = clock, "", mending or Mending()
        self._writes, self._reads = threading.Lock(), threading.Lock()
        self._suspect = path.with_name(path.name + "-suspect")
        self._mender: threading.Thread | None = None
        self._closed = False
        with self._refusing():
            self._open()

    def read(self, sql: str, *values: Any) -> list[Any]:
        """All rows. Raises Refused."""
        with self._refusing(), self._held(self._reads) as patience:
            self._reader.execute(f"PRAGMA busy_timeout = {patience}")
            return self._reader.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. Raises Refused."""
        with self._refusing(), self._held(self._writes) as patience:
            self._db.execute(f"PRAGMA busy_timeout = {patience}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        if mender := self._mender:
            mender.join()
        with self._writes, self._reads:
            self._closed = True
            self._reader.close()
            self._db.close()

    @contextmanager
    def _held(self, lock: threading.Lock) -> Iterator[int]:
        """The lock, and the milliseconds that SQLite may wait for another program's."""
        patience = PATIENCE
        try:
            asyncio.get_running_loop()
            patience = LOOP_PATIENCE
        except RuntimeError:
            pass  # a thread
        if self._mender and threading.current_thread() is not self._mender:
            raise Refused(
                f"The file of the {self.contents} is damaged and is being mended.",
                "Wait a moment, then try again.",
            )
        if not lock.acquire(timeout=patience):
            raise Refused(*self._sentences("SQLITE_BUSY", sqlite3.OperationalError("busy")))
        try:
            yield int(1000 * patience)
        finally:
            lock.release()

    # Opening and mending

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            if not _name(error).startswith(BROKEN):
                raise
            aside = self._set_aside()
            self._db = self._connect()
            self._take_over(aside)
        self._reader = self._connection()
        self._reader.execute("PRAGMA query_only = ON")

    def _mend(self) -> None:
        """In a thread of its own, since a large file takes a while."""
        try:
            with self._writes, self._reads:
                if not self._closed:
                    self._reader.close()
                    self._db.close()
                    self._open()
        except (sqlite3.Error, OSError, Refused):
            logging.getLogger(__name__).exception("mending %s", self.path.name)
        finally:
            self._mender = None

    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )

    def _connect(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        db = self._connection()
        try:
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}")
            suspect = self._suspect.exists()
            self._check(db)
            self._migrate(db)
            if suspect and self.mending.rebuild:
                db.executescript(f"BEGIN; {self.mending.rebuild}; COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Read the whole file where it is small, or was found broken while in use."""
        if self._suspect.exists() or self.path.stat().st_size <= ALWAYS_CHECKED:
            found = db.execute("PRAGMA quick_check (1)").fetchone()[0]
            if found != "ok":
                error = sqlite3.DatabaseError(found)
                error.sqlite_errorname = "SQLITE_CORRUPT"
                raise error
            self._suspect.unlink(missing_ok=True)

    def _migrate(self, db: sqlite3.Connection) -> None:
        version, known = db.execute("PRAGMA user_version").fetchone()[0], len(self.migrations)
        if version > known:
            raise Refused(
                f"The {self.contents} were written by a newer Werkbank "
                f"(version {version} of the file, this one knows {known}).",
                "Update Werkbank, or start it with another --home.",
            )
        if 0 < version < known:
            copy = self.path.with_name(f"{self.path.stem}-version-{version}{self.path.suffix}")
            copy.unlink(missing_ok=True)
            db.execute("VACUUM INTO ?", (str(copy),))
        for number in range(version, known):
            script = self.migrations[number]
            db.executescript(f"BEGIN; {script}; PRAGMA user_version = {number + 1}; COMMIT;")

    def _set_aside(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.clock()))
        aside, number = self._aside(stamp), 1
        while aside.exists():
            number += 1
            aside = self._aside(f"{stamp}-{number}")
        for end in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + end)
            if part.exists():
                part.replace(aside.with_name(aside.name + end))
        self._suspect.unlink(missing_ok=True)
        return aside

    def _aside(self, stamp: str) -> Path:
        return self.path.with_name(f"{self.path.stem}-broken-{stamp}{self.path.suffix}")

    def _take_over(self, aside: Path) -> None:
        """Copy from the broken file what can be read, and say what became of it."""
        taken = salvage(aside, self._db, self.mending.tables, self.mending.after)
        told = " and ".join(f"{count} {table}" for table, count in taken.items() if count)
        self.notice = (
            f"The file of the {self.contents} was damaged and was set aside as {aside.name}. "
            + (f"What could be read of it is here: {told}." if told else
               "New ones are kept; sqlite3's command .recover may save the old ones.")
        )  # fmt: skip
        logging.getLogger(__name__).warning(self.notice)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """The one funnel for errors of the file and of the disk."""
        try:
            yield
        except sqlite3.Error as error:
            if _name(error).startswith(BROKEN):
                self._found_broken()
            message, hint = self._sentences(_name(error), error)
            detail = f"{type(error).__name__} {_name(error)}: {error}"
            raise Refused(message, hint, detail) from error
        except OSError as error:
            raise Refused(
                f"The {self.contents} cannot be kept in {self.path} ({error.strerror}).",
                "Check that folder, or start Werkbank with another --home.",
            ) from error

    def _found_broken(self) -> None:
        self._suspect.touch()
        opened = hasattr(self, "_reader")
        if opened and not self._mender and not self._closed:
            self._mender = threading.Thread(target=self._mend, name="mend", daemon=True)
            self._mender.start()

    def _sentences(self, name: str, error: sqlite3.Error) -> tuple[str, str]:
        for starts, message, hint in (
            (("SQLITE_FULL", "SQLITE_IOERR"), "The disk is full or failing, so nothing was saved.",
             f"Free some space for {self.path.parent}, then go on."),
            (("SQLITE_BUSY", "SQLITE_LOCKED"),
             f"Another program holds the file of the {self.contents}, so nothing was saved.",
             f"Close what has {self.path} open."),
            (("SQLITE_READONLY", "SQLITE_CANTOPEN"),
             f"{self.path} cannot be written, so nothing was saved.",
             "Give yourself the right to write there, or start Werkbank with another --home."),
            (BROKEN, f"The file of the {self.contents} is damaged, so nothing was saved.",
             "It is being mended. Wait a moment, then try again."),
        ):  # fmt: skip
            if name.startswith(starts):
                return message, hint
        return f"The {self.contents} were not saved ({error}).", "Try again, or restart Werkbank."


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
