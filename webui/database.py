"""One SQLite file: opened, migrated, set aside when broken, its errors told as sentences.

One connection, guarded by a lock: the event loop uses it directly, since every call is short, and
worker threads may, too. WAL with `synchronous = NORMAL`: what was committed survives `kill -9`;
a power cut may cost the last moment.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.base import Refused

PATIENCE = 5.0  # seconds to wait for another program's lock
ALWAYS_CHECKED = 32 * 2**20  # bytes; checking reads the whole file, which a large one does not pay
BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


class Database:
    """The file at `path`, made where it is missing.

    `migrations[n]` is a script that brings version n to n + 1 (`PRAGMA user_version`); a copy is
    kept before an old file is migrated. `contents` names what is in it, for the sentences. A broken
    file is set aside, and `notice` says where. Raises Refused for a file that a newer program
    wrote, and for one that cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        contents: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.migrations, self.contents = path, migrations, contents
        self.clock, self.notice = clock, ""
        self._lock = threading.RLock()
        self._suspect = path.with_name(path.name + "-suspect")
        with self._refusing():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError as error:
                if not _name(error).startswith(BROKEN):
                    raise
                self._set_aside()
                self._db = self._connect()

    def read(self, sql: str, *values: Any) -> list[Any]:
        """All rows. Raises Refused."""
        with self._lock, self._refusing():
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. Raises Refused."""
        with self._lock, self._refusing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _connect(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        db = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}")
            self._check(db)
            self._migrate(db)
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

    def _set_aside(self) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.clock()))
        aside = self.path.with_name(f"{self.path.stem}-broken-{stamp}{self.path.suffix}")
        for end in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + end)
            if part.exists():
                part.replace(aside.with_name(aside.name + end))
        self._suspect.unlink(missing_ok=True)
        self.notice = (
            f"The {self.contents} could not be read and were set aside as {aside.name}. "
            "New ones are kept; sqlite3's command .recover may save the old ones."
        )

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """The one funnel for errors of the file and of the disk."""
        try:
            yield
        except sqlite3.Error as error:
            if _name(error).startswith(BROKEN):
                self._suspect.touch()
            message, hint = self._sentences(_name(error), error)
            detail = f"{type(error).__name__} {_name(error)}: {error}"
            raise Refused(message, hint, detail) from error
        except OSError as error:
            raise Refused(
                f"The {self.contents} cannot be kept in {self.path} ({error.strerror}).",
                "Check that folder, or start Werkbank with another --home.",
            ) from error

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
             "Restart Werkbank: it sets the file aside and begins a new one."),
        ):  # fmt: skip
            if name.startswith(starts):
                return message, hint
        return f"The {self.contents} were not saved ({error}).", "Try again, or restart Werkbank."


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
