"""Conversations and their messages in SQLite, saved while they stream.

Messages form a tree (`parent`), so that an edit or a second answer is a branch and nothing is ever
written over; a conversation's `head` is the last message of the branch that is shown. After
`kill -9` everything up to the last `append_text` is there.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.base import Refused
from webui.store.database import Database, Mending
from webui.store.ends import Ended, Ends
from webui.store.pairs import Pair, pairs
from webui.store.schema import (
    LISTED,
    MIGRATIONS,
    REBUILD,
    WHOLE,
    WHOLE_AGAIN,
    Conversation,
    Message,
    Role,
    State,
    conversation_of,
    message_of,
)
from webui.store.search import Found, search

INTERRUPTED = "Werkbank ended while this was being written. Ask again for the rest."
TITLE_LENGTH = 80
DELETED_DAYS = 30  # until what was deleted is gone for good


class Store:
    """The database at `path`, made or migrated as needed.

    A broken one is set aside, and `notice` says where. Every method raises Refused where the disk
    does not do what it is asked, but for the two that save an answer under way: they return the
    sentence, since the answer goes on. Safe from any thread.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        mending = Mending(("conversations", "messages"), WHOLE_AGAIN, REBUILD)
        self.database = Database(path, MIGRATIONS, "conversations", clock, mending)
        self.ends = Ends(self._save_end)

    @property
    def notice(self) -> str:
        """What the user should know about the file, or nothing."""
        return self.database.notice

    def close(self) -> None:
        self.ends.close()
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
            f"SELECT {LISTED} FROM conversations WHERE id = ? AND deleted IS NULL", id
        )
        return conversation_of(rows[0]) if rows else None

    def conversations(self, limit: int = 50) -> list[Conversation]:
        """Pinned first, then newest first."""
        rows = self.database.read(
            f"SELECT {LISTED} FROM conversations WHERE deleted IS NULL"
            " ORDER BY pinned DESC, updated DESC LIMIT ?",
            limit,
        )
        return [conversation_of(row) for row in rows]

    def search(self, text: str, limit: int = 60) -> list[Found]:
        """Conversations with these words in their title or in any of their branches."""
        return search(self.database, text, limit)

    def ids(self) -> list[str]:
        """Of all conversations that are not deleted, the one changed last at the end."""
        rows = self.database.read(
            "SELECT id FROM conversations WHERE deleted IS NULL ORDER BY updated, rowid"
        )
        return [row[0] for row in rows]

    def add_conversation(
        self, conversation: Conversation, messages: Sequence[Message], shown: str
    ) -> Conversation:
        """A whole conversation from elsewhere, under a new id; all of it or nothing.

        The ids of the messages need only differ from each other; a parent stands before its
        children. `shown` is the one that the shown branch ends with.
        """
        made = replace(conversation, id=secrets.token_hex(8), title=short_title(conversation.title))
        known: dict[str, tuple[int, int]] = {}  # id in the file: number in the table, position
        with self.database.writing() as db:
            db.execute(
                "INSERT INTO conversations (id, title, created, updated, model, settings, pinned)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    made.id, made.title, made.created, made.updated, clean(made.model),
                    _dump(made.settings), int(made.pinned),
                ),
            )  # fmt: skip
            for m in messages:
                parent, position = known.get(m.parent, (None, -1))
                number = db.execute(
                    "INSERT INTO messages (conversation, parent, position, role, text, state, note,"
                    " usage, model, created, vote, edited_from, extra)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        made.id, parent, position + 1, m.role, clean(m.text), m.state,
                        clean(m.note), _dump(m.usage), clean(m.model), m.created, m.vote,
                        known.get(m.edited_from, (None,))[0], _dump(m.extra),
                    ),
                ).lastrowid  # fmt: skip
                known[m.id] = (number or 0, position + 1)
            head = known.get(shown, (None,))[0]
            db.execute("UPDATE conversations SET head = ? WHERE id = ?", (head, made.id))
        return made

    def rename(self, id: str, title: str) -> None:
        self._change("title = ?", short_title(title), id)

    def pin(self, id: str, pinned: bool = True) -> None:
        self._change("pinned = ?", int(pinned), id)

    def delete(self, id: str) -> None:
        """Out of every list; `restore` brings it back."""
        self._change("deleted = ?", self.clock(), id)

    def restore(self, id: str) -> None:
        self._change("deleted = ?", None, id)

    def deleted(self, limit: int = 60) -> list[Conversation]:
        """What `restore` can bring back, deleted last first."""
        rows = self.database.read(
            f"SELECT {LISTED} FROM conversations WHERE deleted IS NOT NULL"
            " ORDER BY deleted DESC LIMIT ?",
            limit,
        )
        return [conversation_of(row) for row in rows]

    def empty_deleted(self, id: str = "", days: float = DELETED_DAYS) -> int:
        """Remove for good what was deleted so long ago, or the one deleted conversation `id`.

        Returns how many conversations went.
        """
        which, value = ("id = ?", id) if id else ("deleted < ?", self.clock() - days * 86400)
        with self.database.writing() as db:
            gone = db.execute(
                f"SELECT id FROM conversations WHERE deleted IS NOT NULL AND {which}", (value,)
            ).fetchall()
            for row in gone:
                # From the last to the first: a message stands behind the one it refers to.
                db.execute("UPDATE messages SET edited_from = NULL WHERE conversation = ?", row)
                for (message,) in db.execute(
                    "SELECT id FROM messages WHERE conversation = ? ORDER BY id DESC", row
                ).fetchall():
                    db.execute("DELETE FROM messages WHERE id = ?", (message,))
                db.execute("DELETE FROM conversations WHERE id = ?", row)
        return len(gone)

    # Messages

    def messages(self, conversation: str) -> list[Message]:
        """The branch that is shown, from its first message to its last."""
        rows = self.database.read(
            f"""WITH RECURSIVE branch (id, parent) AS (
                SELECT m.id, m.parent FROM messages m
                    JOIN conversations c ON c.head = m.id WHERE c.id = ? AND c.deleted IS NULL
                UNION ALL
                SELECT m.id, m.parent FROM messages m JOIN branch b ON m.id = b.parent
            ) SELECT {WHOLE} FROM messages WHERE id IN (SELECT id FROM branch)
            ORDER BY position""",
            conversation,
        )
        return [self.ends.over(message_of(row)) for row in rows]

    def branch(self, message: str) -> list[Message]:
        """From the first message to this one, whatever is shown; empty where there is none."""
        rows = self.database.read(
            f"""WITH RECURSIVE branch (id, parent) AS (
                SELECT id, parent FROM messages WHERE id = ? AND deleted IS NULL
                UNION ALL
                SELECT m.id, m.parent FROM messages m JOIN branch b ON m.id = b.parent
            ) SELECT {WHOLE} FROM messages WHERE id IN (SELECT id FROM branch)
            ORDER BY position""",
            _number(message),
        )
        return [self.ends.over(message_of(row)) for row in rows]

    def add_message(
        self,
        conversation: str,
        role: Role,
        text: str,
        *,
        state: State = "done",
        model: str = "",
        parent: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Message:
        """Behind the last message of the branch that is shown, or behind `parent` ("": as a first).

        It becomes the head. Raises Refused where there is no such conversation or parent, and where
        the disk refuses.
        """
        with self.database.writing() as db:
            known = db.execute(
                "SELECT head FROM conversations WHERE id = ? AND deleted IS NULL", (conversation,)
            ).fetchone()
            if known is None:
                raise Refused("This conversation does not exist any more.", "Start a new one.")
            before = known[0] if parent is None else _number(parent) if parent else None
            made = Message(
                "", conversation, str(before or ""), 0, role, clean(text), state,
                model=model, extra=extra or {},
            )  # fmt: skip
            return self._insert(db, made)

    def _insert(self, db: sqlite3.Connection, made: Message) -> Message:
        """Put a message behind its parent and show it. Returns it with its id and place."""
        before = _number(made.parent) if made.parent else None
        above = db.execute(
            "SELECT position FROM messages WHERE id = ? AND conversation = ? AND deleted IS NULL",
            (before, made.conversation),
        ).fetchone()
        if before is not None and above is None:
            raise Refused("The message to go on from does not exist.", "Reload the page.")
        now, position = self.clock(), above[0] + 1 if above else 0
        number = db.execute(
            "INSERT INTO messages (conversation, parent, position, role, text, state, note, usage,"
            " model, created, edited_from, extra) VALUES (?, ?, ?, ?, ?, ?, '', '{}', ?, ?, ?, ?)",
            (
                made.conversation, before, position, made.role, made.text, made.state, made.model,
                now, _number(made.edited_from) if made.edited_from else None, _dump(made.extra),
            ),
        ).lastrowid  # fmt: skip
        db.execute(
            "UPDATE conversations SET head = ?, updated = ? WHERE id = ?",
            (number, now, made.conversation),
        )
        return replace(made, id=str(number), position=position, created=now)

    # Branches

    def message(self, message: str) -> Message | None:
        """One message; None where there is none, or it is deleted."""
        rows = self.database.read(
            f"SELECT {WHOLE} FROM messages WHERE id = ? AND deleted IS NULL", _number(message)
        )
        return self.ends.over(message_of(rows[0])) if rows else None

    def tree(self, conversation: str) -> list[Message]:
        """All messages of all branches that are not deleted, each behind its parent."""
        rows = self.database.read(
            f"SELECT {WHOLE} FROM messages WHERE conversation = ? AND deleted IS NULL ORDER BY id",
            conversation,
        )
        return [self.ends.over(message_of(row)) for row in rows]

    def siblings(self, message: str) -> list[Message]:
        """All that stand behind the same parent, this one included, oldest first."""
        rows = self.database.read(
            f"""SELECT {_of("b")} FROM messages a CROSS JOIN messages b
            ON b.conversation = a.conversation AND b.position = a.position
            AND +b.parent IS a.parent WHERE a.id = ? AND b.deleted IS NULL ORDER BY b.id""",
            _number(message),
        )
        return [self.ends.over(message_of(row)) for row in rows]

    def children(self, conversation: str) -> dict[str, list[str]]:
        """Every branching of a conversation: the ids behind each parent ("": the first ones)."""
        found: dict[str, list[str]] = {}
        for id, parent in self.database.read(
            "SELECT id, parent FROM messages WHERE conversation = ? AND deleted IS NULL"
            " ORDER BY id",
            conversation,
        ):
            found.setdefault(str(parent or ""), []).append(str(id))
        return found

    def edit(self, message: str, text: str) -> Message:
        """A second version beside `message`, which stays as it was. It becomes the head.

        Raises Refused for a message that is not there or still being written.
        """
        with self.database.writing() as db:
            original = self._known(db, message)
            if original.state == "streaming":
                raise Refused("This answer is still being written.", "Stop it, then edit it.")
            return self._insert(db, Message(
                "", original.conversation, original.parent, 0, original.role, clean(text),
                model=original.model, edited_from=original.id, extra=original.extra,
            ))  # fmt: skip

    def show_branch(self, message: str) -> None:
        """Show the branch through `message`, down to the newest end below it. Raises Refused."""
        with self.database.writing() as db:
            known = self._known(db, message)
            self._show(db, known.conversation, _number(message))

    def delete_message(self, message: str) -> None:
        """Hide a message and all below it; `restore_message` brings them back. Raises Refused.

        Where it was shown, another branch is: the newest end behind the same parent.
        """
        with self.database.writing() as db:
            known = self._known(db, message)
            now, below = self.clock(), self._below(db, _number(message))
            db.executemany(
                "UPDATE messages SET deleted = ? WHERE id = ?", [(now, number) for number in below]
            )
            head = db.execute(
                "SELECT head FROM conversations WHERE id = ?", (known.conversation,)
            ).fetchone()[0]
            if head in below:
                self._show(db, known.conversation, _number(known.parent) if known.parent else None)

    def restore_message(self, message: str) -> None:
        """Undo `delete_message`: all that was hidden with it is back, and shown. Raises Refused."""
        with self.database.writing() as db:
            row = db.execute(
                f"SELECT deleted, {WHOLE} FROM messages WHERE id = ?", (_number(message),)
            ).fetchone()
            if row is None:
                raise Refused("This message does not exist any more.", "Reload the page.")
            known = message_of(row[1:])
            if row[0] is not None and known.parent:
                self._known(db, known.parent)
            db.executemany(
                "UPDATE messages SET deleted = NULL WHERE id = ?",
                [(number,) for number in self._below(db, _number(message), row[0])],
            )
            self._show(db, known.conversation, _number(message))

    def vote(self, message: str, vote: int) -> None:
        """-1 down, 1 up, 0 neither. Raises Refused where the message is not there."""
        if vote not in (-1, 0, 1):
            raise ValueError(f"A vote is -1, 0 or 1, not {vote}. Choose one of them.")
        with self.database.writing() as db:
            self._known(db, message)
            db.execute("UPDATE messages SET vote = ? WHERE id = ?", (vote, _number(message)))

    def pairs(self) -> Iterator[Pair]:
        """Preference pairs from votes among siblings and from edited answers."""
        return pairs(self.database)

    def _known(self, db: sqlite3.Connection, message: str) -> Message:
        row = db.execute(
            f"SELECT {WHOLE} FROM messages WHERE id = ? AND deleted IS NULL AND conversation IN"
            " (SELECT id FROM conversations WHERE deleted IS NULL)",
            (_number(message),),
        ).fetchone()
        if row is None:
            raise Refused("This message does not exist any more.", "Reload the page.")
        return message_of(row)

    def _below(
        self, db: sqlite3.Connection, message: int, deleted: float | None = None
    ) -> list[int]:
        """This message and all below it that were deleted at that moment (None: that are not)."""
        return [
            row[0]
            for row in db.execute(
                """WITH RECURSIVE below (id) AS (
                    SELECT id FROM messages WHERE id = :id AND deleted IS :deleted
                    UNION ALL
                    SELECT m.id FROM messages m JOIN below b ON m.parent = b.id
                        WHERE m.deleted IS :deleted
                ) SELECT id FROM below""",
                {"id": message, "deleted": deleted},
            )
        ]

    def _show(self, db: sqlite3.Connection, conversation: str, message: int | None) -> None:
        """The newest end below `message` becomes the head; None: of the whole conversation."""
        if message is None:
            newest = db.execute(
                "SELECT max(id) FROM messages WHERE conversation = ? AND deleted IS NULL",
                (conversation,),
            ).fetchone()[0]
        else:  # ids grow downwards, so the largest has nothing below it
            newest = max(self._below(db, message))
        db.execute("UPDATE conversations SET head = ? WHERE id = ?", (newest, conversation))

    def reopen_message(self, message: str) -> None:
        """An answer that ended is being written again, from where it stopped. Raises Refused."""
        with self.database.writing() as db:
            if self._known(db, message).state == "streaming":
                raise Refused("This answer is still being written.", "Wait for its end.")
            db.execute(
                "UPDATE messages SET state = 'streaming', note = '' WHERE id = ?",
                (_number(message),),
            )

    def set_settings(self, conversation: str, model: str, settings: dict[str, Any]) -> None:
        """What a conversation was last answered with: it is shown again when it is opened."""
        with self.database.writing() as db:
            db.execute(
                "UPDATE conversations SET model = ?, settings = ? WHERE id = ?",
                (model, _dump(settings), conversation),
            )

    def set_extra(self, message: str, extra: dict[str, Any]) -> None:
        with self.database.writing() as db:
            self._known(db, message)
            db.execute(
                "UPDATE messages SET extra = ? WHERE id = ?", (_dump(extra), _number(message))
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
        extra: dict[str, Any] | None = None,
    ) -> str:
        """The end of an answer. `extra` None leaves it as it was. Returns what went wrong, or "".

        Where it cannot be saved, `messages` shows it all the same, and saving is tried again until
        it works or the page ends.
        """
        return self.ends.save(message, Ended(clean(text), state, usage or {}, clean(note), extra))

    def _save_end(self, message: str, ended: Ended) -> str:
        return self._try(
            "UPDATE messages SET text = ?, state = ?, usage = ?, note = ?,"
            " extra = coalesce(?, extra) WHERE id = ?",
            (
                ended.text, ended.state, _dump(ended.usage), ended.note,
                None if ended.extra is None else _dump(ended.extra), _number(message),
            ),
        )  # fmt: skip

    def settle(self) -> None:
        """Once, at the start of the page. Raises Refused."""
        self.mark_interrupted()
        self.empty_deleted()

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


def _of(table: str) -> str:
    return ", ".join(f"{table}.{column.strip()}" for column in WHOLE.split(","))


def clean(text: str) -> str:
    """What SQLite and JSON can hold: broken surrogates are replaced. NUL bytes are kept."""
    return text.encode("utf-8", "replace").decode("utf-8")


def short_title(text: str) -> str:
    """The first line that says something, at most 80 characters."""
    line = next(
        (line.strip() for line in clean(text).replace("\0", " ").splitlines() if line.strip()), ""
    )
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def _number(id: str) -> int:
    """A message's id as the table has it; one that cannot exist for what is none."""
    return int(id) if id.isdecimal() and len(id) < 19 else -1


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True)
