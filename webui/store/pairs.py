"""Preference pairs for training, from votes and from edited answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from webui.attachments import as_prompt, attachments_of
from webui.store.database import Database
from webui.store.schema import WHOLE, Message, message_of


@dataclass(frozen=True, slots=True)
class Pair:
    """`prompt` are the turns before both answers, as `{"role": …, "content": …}`, the last one
    usually the user's."""

    prompt: tuple[dict[str, str], ...]
    chosen: str
    rejected: str
    source: Literal["vote", "edit"]
    conversation: str
    chosen_message: str
    rejected_message: str


# An answer voted up against each of its siblings voted down; an edited answer against what the
# model wrote, unless a vote says the opposite. An unvoted sibling was not rejected by anybody.
_PAIRS = """
    SELECT a.id, b.id, 'vote' FROM messages a JOIN messages b
        ON b.parent = a.parent AND b.vote = -1
        WHERE a.vote = 1 AND a.role = 'assistant' AND b.role = 'assistant'
            AND a.deleted IS NULL AND b.deleted IS NULL
    UNION ALL
    SELECT a.id, b.id, 'edit' FROM messages a INDEXED BY messages_edited
        JOIN messages b ON b.id = a.edited_from
        WHERE a.edited_from IS NOT NULL AND a.role = 'assistant' AND a.deleted IS NULL
            AND a.vote >= b.vote AND NOT (a.vote = 1 AND b.vote = -1)
"""


def pairs(database: Database) -> Iterator[Pair]:
    """All pairs, oldest first, each once. Raises Refused where the disk does not read.

    Left out: empty and unfinished answers, equal texts, deleted conversations.
    """
    for chosen_id, rejected_id, source in database.read(f"SELECT * FROM ({_PAIRS}) ORDER BY 1, 2"):
        branch = branch_to(database, chosen_id)
        rejected = branch_to(database, rejected_id)[-1:]
        if not branch or not rejected or not _counts(branch[-1], rejected[0]):
            continue
        *before, chosen = branch
        yield Pair(
            prompt=tuple(
                {"role": m.role, "content": _said(m)} for m in _with_system(before, chosen)
            ),
            chosen=chosen.text,
            rejected=rejected[0].text,
            source=source,
            conversation=chosen.conversation,
            chosen_message=chosen.id,
            rejected_message=rejected[0].id,
        )


def _counts(chosen: Message, rejected: Message) -> bool:
    ended = chosen.state != "streaming" and rejected.state in ("done", "stopped")
    said = bool(chosen.text.strip() and rejected.text.strip())
    return ended and said and chosen.text != rejected.text


def _said(message: Message) -> str:
    """As the model got it: attached files stand before the words."""
    return as_prompt(attachments_of(message.extra), message.text)


def _with_system(before: list[Message], chosen: Message) -> list[Message]:
    """The system prompt in front, where the answer was written under one that is no turn."""
    system = str((chosen.extra.get("settings") or {}).get("system") or "").strip()
    if not system or any(m.role == "system" for m in before):
        return before
    return [Message("", chosen.conversation, "", -1, "system", system), *before]


def branch_to(database: Database, message: int) -> list[Message]:
    """From the first turn to this one; empty where its conversation is deleted."""
    rows = database.read(
        f"""WITH RECURSIVE branch (id, parent) AS (
            SELECT m.id, m.parent FROM messages m
                JOIN conversations c ON c.id = m.conversation
                WHERE m.id = ? AND c.deleted IS NULL
            UNION ALL
            SELECT m.id, m.parent FROM messages m JOIN branch b ON m.id = b.parent
        ) SELECT {WHOLE} FROM messages WHERE id IN (SELECT id FROM branch) ORDER BY position""",
        message,
    )
    return [message_of(row) for row in rows]
