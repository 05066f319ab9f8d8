"""Full-text search over titles and messages: what people type never is an error.

The last word may be the beginning of one, since it is searched for while it is typed. Words in
quotes stand side by side. Accents and case do not matter.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from webui.store.database import Database
from webui.store.schema import LISTED, Conversation, conversation_of

LOOKED_AT = 3000  # newest messages with a hit: enough for a list, and a bound on a common word
LONGEST = 200  # characters of a query that are looked at
OPENS, CLOSES = "\x02", "\x03"  # SQLite puts them around a hit


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation with a hit. `snippet` is the text around it, each piece with whether it is
    the hit; empty where the title alone has it, then `message` is empty, too."""

    conversation: Conversation
    snippet: tuple[tuple[str, bool], ...] = ()
    message: str = ""


def search(database: Database, text: str, limit: int = 60) -> list[Found]:
    """Titles first, then messages; each newest first. Every branch is searched."""
    query = query_of(text)
    if not query:
        return []
    titles = database.read(
        f"SELECT {LISTED} FROM conversations WHERE deleted IS NULL AND id IN"
        " (SELECT conversation FROM title_words WHERE title_words MATCH ?)"
        " ORDER BY updated DESC LIMIT ?",
        query, limit,
    )  # fmt: skip
    texts = database.read(
        f"""WITH hits AS MATERIALIZED (
            SELECT rowid AS message FROM message_words WHERE message_words MATCH ?
            ORDER BY rowid DESC LIMIT {LOOKED_AT}
        ), found AS (
            SELECT m.conversation AS conversation, max(m.id) AS message
            FROM hits CROSS JOIN messages m ON m.id = hits.message
            WHERE m.deleted IS NULL GROUP BY m.conversation
        ) SELECT found.message, {LISTED} FROM found CROSS JOIN conversations c
        ON c.id = found.conversation WHERE c.deleted IS NULL
        ORDER BY found.message DESC LIMIT ?""",
        query, limit,
    )  # fmt: skip
    snippets = _snippets(database, query, [row[0] for row in texts])
    found = {row[1]: Found(conversation_of(row[1:]), *snippets.get(row[0], ())) for row in texts}
    by_title = {row[0]: found.pop(row[0], Found(conversation_of(row))) for row in titles}
    return [*by_title.values(), *found.values()][:limit]


def query_of(text: str) -> str:
    """What was typed, as FTS5 takes it: every word quoted, so that no sign has a meaning."""
    words, begun = [], ""
    for phrase, word in re.findall(r'"([^"]*)"|([^\s"]+)', text.replace("\0", " ")[:LONGEST]):
        piece = phrase or word
        if any(_is_indexed(c) for c in piece):
            words.append(f'"{piece}"')
            begun = "*" if word and _is_indexed(word[-1]) else ""
    return " ".join(words) + begun


def _is_indexed(c: str) -> bool:
    """As the tokenizer in the schema has it."""
    kind = unicodedata.category(c)
    return kind[0] in "LN" or kind in ("Co", "So", "Sk", "Mn")


def _snippets(
    database: Database, query: str, messages: list[int]
) -> dict[int, tuple[tuple[tuple[str, bool], ...], str]]:
    if not messages:
        return {}
    # One walk along the hits: `rowid IN (…)` would look the words up again for each of them.
    marks = ",".join("?" * len(messages))
    rows = database.read(
        f"SELECT rowid, snippet(message_words, 0, '{OPENS}', '{CLOSES}', '…', 14)"
        f" FROM message_words WHERE message_words MATCH ? AND rowid >= ? AND +rowid IN ({marks})"
        f" ORDER BY rowid DESC LIMIT ?",
        query, min(messages), *messages, len(messages),
    )  # fmt: skip
    return {row[0]: (pieces(row[1]), str(row[0])) for row in rows}


def pieces(snippet: str) -> tuple[tuple[str, bool], ...]:
    """`a <hit> b` with SQLite's marks, taken apart."""
    made: list[tuple[str, bool]] = []
    for part in re.split(f"({OPENS}[^{CLOSES}]*{CLOSES}?)", snippet):
        hit = part.startswith(OPENS)
        if plain := part.replace(OPENS, "").replace(CLOSES, ""):
            made.append((plain, hit))
    return tuple(made)
