"""Conversations and their messages in SQLite, saved while they stream.

Messages form a tree (`parent`), so that an edit or a second answer is a branch; a conversation's
`head` is the last message of the branch that is shown. After `kill -9` everything up to the last
`append_text` is there.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backends.base import Refused
from webui.database import Database

Role = Literal["system", "user", "assistant"]
State = Literal["streaming", "done", "stopped", "failed"]
INTERRUPTED = "Werkbank ended while this was being written. Ask again for the rest."
TITLE_LENGTH = 80

# Each entry brings a database from its place in this list to the next. Never change one that was
# released: append.
MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
        model TEXT NOT NULL, settings TEXT NOT NULL, head INTEGER,
        pinned INTEGER NOT NULL DEFAULT 0, deleted REAL
    ) STRICT;
    CREATE INDEX conversations_listed ON conversations (pinned DESC, updated DESC)
        WHERE deleted IS NULL;
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations (id),
        parent INTEGER REFERENCES messages (id), position INTEGER NOT NULL, role TEXT NOT NULL,
        text TEXT NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL, usage TEXT NOT NULL,
        model TEXT NOT NULL, created REAL NOT NULL
    ) STRICT;
    CREATE INDEX messages_of_conversation ON messages (conversation, position);
    CREATE INDEX messages_of_parent ON messages (parent);
    CREATE INDEX messages_streaming ON messages (state) WHERE state = 'streaming';
    """,
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation without its messages. Times are Unix seconds."""

    id: str
    title: str
    created: float
    updated: float
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `parent` is the id of the turn before it, empty for the first."""

    id: str
    conversation: str
    parent: str
    position: int
    role: str
    text: str
    state: str = "done"
    note: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    created: float = 0.0


class Store:
    """The database at `path`, made or migrated as needed.

    A broken one is set aside, and `notice` says where. Every method raises Refused where the disk
    does not do what it is asked, but for the two that save an answer under way: they return the
    sentence, since the answer goes on. Safe from any thread.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.database = Database(path, MIGRATIONS, "conversations", clock)

    @property
    def notice(self) -> str:
        """What the user should know about the file, or nothing."""
        return self.database.notice

    def close(self) -> None:
        self.database.close()

    # Conversations

    def new_conversation(
        self, title: str, model: str = "", settings: dict[str, Any] | None = None
    ) -> Conversation:
        """`title` may be the whole first message: its first line is taken."""
        now = self.clock()
        made = Conversation(
            secrets.token_hex(8), short_title(title), now, now, model, settings or {}
        )
        with self.database.writing() as db:
            db.execute(
                "INSERT INTO conversations (id, title, created, updated, model, settings)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (made.id, made.title, now, now, model, _dump(made.settings)),
            )
        return made

    def conversation(self, id: str) -> Conversation | None:
        rows = self.database.read(
            f"SELECT {_LISTED} FROM conversations WHERE id = ? AND deleted IS NULL", id
        )
        return _conversation(rows[0]) if rows else None

    def conversations(self, limit: int = 50, search: str | None = None) -> list[Conversation]:
        """Pinned first, then newest first; with `search`, those whose title contains it."""
        pattern = f"%{_escaped(search or '')}%"
        rows = self.database.read(
            f"SELECT {_LISTED} FROM conversations WHERE deleted IS NULL"
            + (" AND title LIKE ? ESCAPE '\\'" if search else "")
            + " ORDER BY pinned DESC, updated DESC LIMIT ?",
            *((pattern,) if search else ()),
            limit,
        )
        return [_conversation(row) for row in rows]

    def rename(self, id: str, title: str) -> None:
        self._change("title = ?", short_title(title), id)

    def pin(self, id: str, pinned: bool = True) -> None:
        self._change("pinned = ?", int(pinned), id)

    def delete(self, id: str) -> None:
        """Out of every list; `restore` brings it back."""
        self._change("deleted = ?", self.clock(), id)

    def restore(self, id: str) -> None:
        self._change("deleted = ?", None, id)

    # Messages

    def messages(self, conversation: str) -> list[Message]:
        """The branch that is shown, from its first message to its last."""
        rows = self.database.read(
            f"""WITH RECURSIVE branch (id, parent) AS (
                SELECT m.id, m.parent FROM messages m
                    JOIN conversations c ON c.head = m.id WHERE c.id = ? AND c.deleted IS NULL
                UNION ALL
                SELECT m.id, m.parent FROM messages m JOIN branch b ON m.id = b.parent
            ) SELECT {_WHOLE} FROM messages WHERE id IN (SELECT id FROM branch)
            ORDER BY position""",
            conversation,
        )
        return [_message(row) for row in rows]

    def add_message(
        self,
        conversation: str,
        role: Role,
        text: str,
        *,
        state: State = "done",
        model: str = "",
        parent: str | None = None,
    ) -> Message:
        """Behind the last message of the branch that is shown, or behind `parent` ("": as a first).

        Raises Refused where there is no such conversation, and where the disk refuses.
        """
        text, now = clean(text), self.clock()
        with self.database.writing() as db:
            known = db.execute(
                "SELECT head FROM conversations WHERE id = ? AND deleted IS NULL", (conversation,)
            ).fetchone()
            if known is None:
                raise Refused("This conversation does not exist any more.", "Start a new one.")
            before = known[0] if parent is None else _number(parent) if parent else None
            above = db.execute(
                "SELECT position FROM messages WHERE id = ? AND conversation = ?",
                (before, conversation),
            ).fetchone()
            if before is not None and above is None:
                raise Refused("The message to go on from does not exist.", "Reload the page.")
            position = above[0] + 1 if above else 0
            number = db.execute(
                "INSERT INTO messages (conversation, parent, position, role, text, state, note,"
                " usage, model, created) VALUES (?, ?, ?, ?, ?, ?, '', '{}', ?, ?)",
                (conversation, before, position, role, text, state, model, now),
            ).lastrowid
            db.execute(
                "UPDATE conversations SET head = ?, updated = ? WHERE id = ?",
                (number, now, conversation),
            )
        return Message(
            str(number), conversation, str(before or ""), position, role, text, state,
            model=model, created=now,
        )  # fmt: skip

    def rewind(self, conversation: str, message: str) -> None:
        """Show the branch only up to `message`: what is added next is a new branch there."""
        with self.database.writing() as db:
            db.execute(
                "UPDATE conversations SET head = ? WHERE id = ? AND EXISTS"
                " (SELECT 1 FROM messages WHERE id = ? AND conversation = ?)",
                (_number(message), conversation, _number(message), conversation),
            )

    def append_text(self, message: str, text_so_far: str) -> str:
        """Save an answer under way: all of its text so far. Returns what went wrong, or nothing."""
        return self._try(
            "UPDATE messages SET text = ? WHERE id = ? AND state = 'streaming'",
            (clean(text_so_far), _number(message)),
        )

    def finish_message(
        self,
        message: str,
        text: str,
        state: State,
        usage: dict[str, Any] | None = None,
        note: str = "",
    ) -> str:
        """The end of an answer. Returns what went wrong, or nothing."""
        return self._try(
            "UPDATE messages SET text = ?, state = ?, usage = ?, note = ? WHERE id = ?",
            (clean(text), state, _dump(usage or {}), clean(note), _number(message)),
        )

    def mark_interrupted(self) -> int:
        """At the start of the page: what still says streaming is nobody's. Returns how many."""
        with self.database.writing() as db:
            return db.execute(
                "UPDATE messages SET state = 'stopped', note = ? WHERE state = 'streaming'",
                (INTERRUPTED,),
            ).rowcount

    def _try(self, sql: str, values: Sequence[Any]) -> str:
        try:
            with self.database.writing() as db:
                db.execute(sql, values)
        except Refused as refused:
            return str(refused)
        return ""

    def _change(self, assignment: str, value: Any, id: str) -> None:
        with self.database.writing() as db:
            db.execute(f"UPDATE conversations SET {assignment} WHERE id = ?", (value, id))


_LISTED = "id, title, created, updated, model, settings, pinned"
_WHOLE = "id, conversation, parent, position, role, text, state, note, usage, model, created"


def _conversation(row: Sequence[Any]) -> Conversation:
    id, title, created, updated, model, settings, pinned = row
    return Conversation(id, title, created, updated, model, json.loads(settings), bool(pinned))


def _message(row: Sequence[Any]) -> Message:
    id, conversation, parent, position, role, text, state, note, usage, model, created = row
    return Message(
        str(id), conversation, str(parent or ""), position, role, text, state, note,
        json.loads(usage), model, created,
    )  # fmt: skip


def clean(text: str) -> str:
    """What SQLite and JSON can hold: broken surrogates are replaced. NUL bytes are kept."""
    return text.encode("utf-8", "replace").decode("utf-8")


def short_title(text: str) -> str:
    """The first line that says something, at most 80 characters."""
    line = next(
        (line.strip() for line in clean(text).replace("\0", " ").splitlines() if line.strip()), ""
    )
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "%_\\" else c for c in clean(text).replace("\0", " "))


def _number(id: str) -> int:
    """A message's id as the table has it; one that cannot exist for what is none."""
    return int(id) if id.isdecimal() and len(id) < 19 else -1


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True)
