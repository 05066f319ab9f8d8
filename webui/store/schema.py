"""What stands in the database: its tables, and a row of each as a value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
State = Literal["streaming", "done", "stopped", "failed"]

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
    # Votes, edits, deleted branches, and the words of titles and messages. A message's words enter
    # the index when it is finished, not at every save of one that grows.
    """
    ALTER TABLE messages ADD COLUMN vote INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE messages ADD COLUMN edited_from INTEGER REFERENCES messages (id);
    ALTER TABLE messages ADD COLUMN extra TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE messages ADD COLUMN deleted REAL;
    CREATE INDEX messages_liked ON messages (id) WHERE vote = 1;
    CREATE INDEX messages_edited ON messages (edited_from) WHERE edited_from IS NOT NULL;
    CREATE INDEX conversations_deleted ON conversations (deleted) WHERE deleted IS NOT NULL;

    CREATE VIRTUAL TABLE message_words USING fts5 (
        text, content = 'messages', content_rowid = 'id', prefix = '1 2 3',
        tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So Sk Mn'"
    );
    CREATE TRIGGER message_words_added AFTER INSERT ON messages
        WHEN new.state <> 'streaming' BEGIN
            INSERT INTO message_words (rowid, text) VALUES (new.id, new.text);
        END;
    CREATE TRIGGER message_words_out BEFORE UPDATE OF text, state ON messages
        WHEN old.state <> 'streaming'
            AND (new.state = 'streaming' OR old.text IS NOT new.text) BEGIN
            INSERT INTO message_words (message_words, rowid, text)
                VALUES ('delete', old.id, old.text);
        END;
    CREATE TRIGGER message_words_in AFTER UPDATE OF text, state ON messages
        WHEN new.state <> 'streaming'
            AND (old.state = 'streaming' OR old.text IS NOT new.text) BEGIN
            INSERT INTO message_words (rowid, text) VALUES (new.id, new.text);
        END;
    CREATE TRIGGER message_words_gone BEFORE DELETE ON messages
        WHEN old.state <> 'streaming' BEGIN
            INSERT INTO message_words (message_words, rowid, text)
                VALUES ('delete', old.id, old.text);
        END;
    INSERT INTO message_words (rowid, text)
        SELECT id, text FROM messages WHERE state <> 'streaming';

    CREATE VIRTUAL TABLE title_words USING fts5 (
        title, conversation UNINDEXED, prefix = '1 2 3',
        tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So Sk Mn'"
    );
    CREATE TRIGGER title_words_added AFTER INSERT ON conversations BEGIN
        INSERT INTO title_words (title, conversation) VALUES (new.title, new.id);
    END;
    CREATE TRIGGER title_words_changed AFTER UPDATE OF title ON conversations BEGIN
        UPDATE title_words SET title = new.title WHERE conversation = new.id;
    END;
    CREATE TRIGGER title_words_gone AFTER DELETE ON conversations BEGIN
        DELETE FROM title_words WHERE conversation = old.id;
    END;
    INSERT INTO title_words (title, conversation) SELECT title, id FROM conversations;
    """,
)
# Makes both indexes of words anew from what they index, where one was found damaged.
REBUILD = """
    INSERT INTO message_words (message_words) VALUES ('delete-all');
    INSERT INTO message_words (rowid, text)
        SELECT id, text FROM messages WHERE state <> 'streaming';
    INSERT INTO title_words (title_words) VALUES ('rebuild');
"""
# After as many rows as possible were taken over from a damaged file: every reference leads
# somewhere, every conversation shows something, what should be JSON is.
WHOLE_AGAIN = """
    INSERT OR IGNORE INTO conversations (id, title, created, updated, model, settings)
        SELECT conversation, 'Recovered conversation', min(created), max(created), '', '{}'
        FROM messages GROUP BY conversation;
    UPDATE messages SET parent = (
        SELECT max(id) FROM messages p WHERE p.conversation = messages.conversation
            AND p.id < messages.id AND p.position < messages.position
    ) WHERE parent NOT IN (SELECT id FROM messages);
    UPDATE messages SET edited_from = NULL WHERE edited_from NOT IN (SELECT id FROM messages);
    UPDATE messages SET usage = '{}' WHERE NOT json_valid(usage);
    UPDATE messages SET extra = '{}' WHERE NOT json_valid(extra);
    UPDATE conversations SET settings = '{}' WHERE NOT json_valid(settings);
    UPDATE conversations SET head = (
        SELECT max(id) FROM messages m WHERE m.conversation = conversations.id AND deleted IS NULL
    ) WHERE head IS NULL OR head NOT IN (SELECT id FROM messages)
"""


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
    """One turn. `parent` is the id of the turn before it, empty for the first.

    `vote` is -1, 0 or 1. `edited_from` is the id of the turn that this one is an edit of. `extra`
    is what the page keeps with it: attachments, turns that were dropped, the settings used.
    """

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
    vote: int = 0
    edited_from: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


LISTED = "id, title, created, updated, model, settings, pinned"
WHOLE = (
    "id, conversation, parent, position, role, text, state, note, usage, model, created,"
    " vote, edited_from, extra"
)


def conversation_of(row: Sequence[Any]) -> Conversation:
    """From a row of `LISTED`."""
    id, title, created, updated, model, settings, pinned = row
    return Conversation(id, title, created, updated, model, json.loads(settings), bool(pinned))


def message_of(row: Sequence[Any]) -> Message:
    """From a row of `WHOLE`."""
    (id, conversation, parent, position, role, text, state, note, usage, model, created,
     vote, edited_from, extra) = row  # fmt: skip
    return Message(
        str(id), conversation, str(parent or ""), position, role, text, state, note,
        json.loads(usage), model, created, vote, str(edited_from or ""), json.loads(extra),
    )  # fmt: skip
