"""Conversations as files: Markdown to read, JSON to keep and to bring back, ShareGPT to bring in.

`docs/conversation-files.md` describes the JSON. Everything in a file that comes in is a stranger's:
each field is checked, sizes are capped, and what is wrong is named by its entry.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.finetune.roles import SPEAKERS
from webui.attachments import attachments_of
from webui.store.schema import Conversation, Message
from webui.store.store import Store, clean

FORMAT, VERSION = "werkbank-conversations", 1
MAX_FILE = 2**30  # bytes of a file of lines
MAX_DOCUMENT = 50 * 2**20  # bytes of one JSON document, or of one line
MAX_TEXT = 10_000_000  # characters of one message
MAX_MESSAGES = 20_000  # of one conversation
TOLD = 20  # problems that are told one by one
ROLES = ("system", "user", "assistant")
TITLES = {"user": "You", "assistant": "Assistant", "system": "System prompt"}
VOTES = {1: " (voted up)", -1: " (voted down)", 0: ""}


# Out


def as_markdown(conversation: Conversation, messages: Sequence[Message]) -> str:
    """The branch that is shown, to read. It cannot be brought back: the JSON can."""
    when = time.strftime("%d %B %Y", time.localtime(conversation.created))
    parts = [f"# {conversation.title or 'Conversation'}", f"*{when}*"]
    for message in messages:
        model = f", {message.model}" if message.role == "assistant" and message.model else ""
        parts.append(f"## {TITLES.get(message.role, message.role)}{model}{VOTES[message.vote]}")
        parts += [
            f"*Attached: {a.name} ({a.characters:,} characters)*"
            for a in attachments_of(message.extra)
        ]
        parts.append(message.text.rstrip() or "*(nothing)*")
    return "\n\n".join(parts) + "\n"


def as_json(store: Store, conversation: Conversation) -> dict[str, Any]:
    """A document with one conversation, all its branches. Ids are counted from 1 within it."""
    tree, branch = store.tree(conversation.id), store.messages(conversation.id)
    numbers = {message.id: number for number, message in enumerate(tree, 1)}
    told = {
        "title": conversation.title,
        "created": conversation.created,
        "updated": conversation.updated,
        "model": conversation.model,
        "settings": conversation.settings,
        "pinned": conversation.pinned,
        "shown": numbers.get(branch[-1].id) if branch else None,
        "messages": [
            {
                "id": numbers[m.id],
                "parent": numbers.get(m.parent),
                "role": m.role,
                "text": m.text,
                "state": "stopped" if m.state == "streaming" else m.state,
                "note": m.note,
                "usage": m.usage,
                "model": m.model,
                "created": m.created,
                "vote": m.vote,
                "edited_from": numbers.get(m.edited_from),
                "extra": m.extra,
            }
            for m in tree
        ],
    }
    return {"format": FORMAT, "version": VERSION, "conversations": [told]}


def export_one(store: Store, id: str, kind: str) -> str:
    """The text of a file, kind "md" or "json". Raises Refused."""
    conversation = store.conversation(id)
    if conversation is None:
        raise Refused("This conversation does not exist any more.", "Reload the page.")
    if kind == "md":
        return as_markdown(conversation, store.messages(id))
    return clean(json.dumps(as_json(store, conversation), ensure_ascii=False, indent=1)) + "\n"


def export_all(store: Store, path: Path) -> Iterator[tuple[int, int]]:
    """Write all conversations to `path`, one JSON document a line; yields how many of how many.

    The oldest comes first, so that they come back in their order. Raises Refused and OSError.
    """
    ids = store.ids()
    with path.open("w", encoding="utf-8") as file:
        for done, id in enumerate(ids, 1):
            if conversation := store.conversation(id):
                line = json.dumps(as_json(store, conversation), ensure_ascii=False)
                file.write(clean(line) + "\n")
            yield done, len(ids)


def file_name(title: str, ending: str) -> str:
    """A title as a name that every system takes."""
    name = " ".join(re.sub(r"[^\w -]+", " ", title).split())[:60].strip() or "conversation"
    return f"{name}.{ending}"


# In


@dataclass
class Imported:
    """How an import goes. `problems` are sentences, each with the entry it is about."""

    conversations: int = 0
    messages: int = 0
    entries: int = 0
    share: float = 0.0  # of the file, 0 to 1
    problems: list[str] = field(default_factory=list)
    left_out: int = 0

    def failed(self, entry: int, why: str) -> None:
        self.left_out += 1
        if len(self.problems) < TOLD:
            self.problems.append(f"Entry {entry:,}: {why}")

    def sentences(self) -> str:
        """The result for people, without the problems one by one."""
        came = f"{_count(self.conversations, 'conversation')} came in, "
        came += f"{_count(self.messages, 'message')}."
        if not self.left_out:
            return came
        was = "was" if self.left_out == 1 else "were"
        said = f"{_count(self.left_out, 'entry', 'entries')} {was} left out"
        return f"{came if self.conversations else 'Nothing came in.'} {said}."


def import_file(store: Store, path: Path) -> Iterator[Imported]:
    """Bring in what is sound of a file: our JSON, ShareGPT, a list of either, or lines of them.

    Yields the same object after each entry. Each conversation is written whole or not at all.
    Raises Refused where the file cannot be read, or the disk refuses.
    """
    so_far = Imported()
    for value, share in _entries(path):
        so_far.entries += 1
        so_far.share = share
        try:
            if isinstance(value, ValueError):
                raise value
            parsed = parse(value)
        except (ValueError, RecursionError) as error:
            so_far.failed(so_far.entries, str(error) or "It is nested too deeply.")
        else:
            store.add_conversation(*parsed)
            so_far.conversations += 1
            so_far.messages += len(parsed[1])
        yield so_far
    if not so_far.entries:
        raise Refused("This file has no conversations in it.", "Choose a JSON or JSONL file.")


def _entries(path: Path) -> Iterator[tuple[Any, float]]:
    """Each conversation as the JSON has it, or a ValueError; and how much of the file was read."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise Refused(
            f"This file has {size / 2**30:.1f} GB, more than 1 GB.", "Split it into several."
        )
    if not size:
        return
    with path.open("rb") as file:
        first = file.readline(MAX_DOCUMENT).strip()
        as_lines = path.suffix.lower() in (".jsonl", ".ndjson") or _is_whole(first)
        file.seek(0)
        if not as_lines:
            if size > MAX_DOCUMENT:
                raise Refused(
                    f"This JSON document has {size / 2**20:.0f} MB, more than 50 MB.",
                    "Write it as JSONL, one conversation a line: then it may have 1 GB.",
                )
            value = _loaded(file.read())
            if isinstance(value, ValueError):
                why = str(value).replace("It ", "This file ", 1)
                raise Refused(why, "Nothing was brought in.")
            yield from _flat(value, 1.0)
            return
        while line := file.readline(MAX_DOCUMENT + 1):
            if len(line) > MAX_DOCUMENT:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_DOCUMENT)
                yield ValueError("It has more than 50 MB."), file.tell() / size
            elif line.strip(b"\xef\xbb\xbf \t\r\n"):
                yield from _flat(_loaded(line), file.tell() / size)


def _flat(value: Any, share: float) -> Iterator[tuple[Any, float]]:
    """The conversations in a document: it may be one, a list of them, or our own with a list."""
    if isinstance(value, dict) and "format" in value:
        if value["format"] != FORMAT:
            value = ValueError(f"Its format is {_short(value['format'])}, not {FORMAT}.")
        elif value.get("version") != VERSION:
            value = ValueError(
                f"Its version is {_short(value.get('version'))}, this Werkbank reads {VERSION}."
            )
        else:
            value = value.get("conversations")
            if not isinstance(value, list):
                value = ValueError('It has no list "conversations".')
    values = value if isinstance(value, list) else [value]
    for number, one in enumerate(values, 1):
        yield one, share * number / len(values)


def _is_whole(line: bytes) -> bool:
    return bool(line) and not isinstance(_loaded(line), ValueError)


def _loaded(raw: bytes) -> Any:
    """JSON, or the ValueError that says why it is none."""
    try:
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
        return json.loads(text, parse_constant=lambda name: None)
    except UnicodeDecodeError as error:
        return ValueError(f"It is not UTF-8 text (byte {error.start:,}).")
    except json.JSONDecodeError as error:
        return ValueError(f"It is not JSON ({error.msg}, line {error.lineno:,}).")
    except RecursionError:
        return ValueError("It is nested too deeply.")
    except ValueError:
        return ValueError("A number in it has too many digits.")


def parse(value: Any) -> tuple[Conversation, list[Message], str]:
    """A conversation, its messages, and the id of the last one shown. Ids are counted from 1.

    Raises ValueError with a sentence.
    """
    if not isinstance(value, dict):
        raise ValueError(f"It is {_kind(value)}, not a conversation.")
    if isinstance(value.get("conversations"), list):
        return _sharegpt(value)
    if not isinstance(value.get("messages"), list):
        raise ValueError('It has neither "conversations" (ShareGPT) nor "messages".')
    messages = value["messages"]
    _check_count(messages)
    now = time.time()
    conversation = Conversation(
        id="",
        title=_text(value, "title", "the conversation"),
        created=_time(value.get("created"), now),
        updated=_time(value.get("updated"), now),
        model=_text(value, "model", "the conversation"),
        settings=_object(value, "settings", "the conversation"),
        pinned=value.get("pinned") is True,
    )
    made: dict[str, Message] = {}
    for number, raw in enumerate(messages, 1):
        message = _message(raw, number, made, conversation.created)
        made[message.id] = message
    shown = value.get("shown")
    last = str(shown) if str(shown) in made else next(reversed(made))
    return conversation, list(made.values()), last


def _message(raw: Any, number: int, before: dict[str, Message], created: float) -> Message:
    where = f"message {number:,}"
    if not isinstance(raw, dict):
        raise ValueError(f"Its {where} is {_kind(raw)}.")
    role = raw.get("role")
    if role not in ROLES:
        raise ValueError(f'The "role" of {where} is {_short(role)}, not one of {", ".join(ROLES)}.')
    key = "text" if "text" in raw else "content"
    if not isinstance(raw.get(key), str):
        raise ValueError(f"{where.capitalize()} has no text.")
    id = str(raw.get("id", number))
    if id in before:
        raise ValueError(f'The "id" of {where} is that of an earlier one.')
    # Where nothing is said about branches, each message stands behind the one before it.
    parent = raw["parent"] if "parent" in raw else next(reversed(before), None)
    refers = {"parent": parent, "edited_from": raw.get("edited_from")}
    for name, reference in refers.items():
        if reference is not None and str(reference) not in before:
            raise ValueError(f'The "{name}" of {where} is {_short(reference)}, no earlier message.')
    vote, state = raw.get("vote", 0), raw.get("state", "done")
    if vote not in (-1, 0, 1):
        raise ValueError(f'The "vote" of {where} is {_short(vote)}, not -1, 0 or 1.')
    return Message(
        id=id,
        conversation="",
        parent="" if parent is None else str(parent),
        position=0,
        role=role,
        text=_text(raw, key, where),
        state=state if state in ("done", "stopped", "failed") else "stopped",
        note=_text(raw, "note", where),
        usage=_object(raw, "usage", where),
        model=_text(raw, "model", where),
        created=_time(raw.get("created"), created),
        vote=int(vote),
        edited_from="" if refers["edited_from"] is None else str(refers["edited_from"]),
        extra=_object(raw, "extra", where),
    )


def _sharegpt(value: dict[str, Any]) -> tuple[Conversation, list[Message], str]:
    turns = value["conversations"]
    _check_count(turns)
    now, made = time.time(), []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise ValueError(f"Its turn {number:,} is {_kind(turn)}.")
        role = SPEAKERS.get(str(turn.get("from")).lower())
        if role is None:
            raise ValueError(
                f'The "from" of turn {number:,} is {_short(turn.get("from"))}, '
                "not human, gpt or system."
            )
        if not isinstance(turn.get("value"), str):
            raise ValueError(f'Turn {number:,} has no "value" that is a text.')
        text = _text(turn, "value", f"turn {number:,}")
        made.append(
            Message(str(number), "", str(number - 1) if number > 1 else "", 0, role, text,
                    created=now)
        )  # fmt: skip
    title = value.get("title")
    if not isinstance(title, str) or not title.strip():
        title = next((m.text for m in made if m.role == "user"), made[0].text)
    return Conversation("", title, now, now), made, made[-1].id


def _check_count(turns: list[Any]) -> None:
    if not turns:
        raise ValueError("It has no messages.")
    if len(turns) > MAX_MESSAGES:
        raise ValueError(f"It has {len(turns):,} messages, more than {MAX_MESSAGES:,}.")


def _text(raw: dict[str, Any], key: str, where: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f'The "{key}" of {where} is {_kind(value)}, not a text.')
    if len(value) > MAX_TEXT:
        raise ValueError(f'The "{key}" of {where} has more than {MAX_TEXT:,} characters.')
    return value


def _object(raw: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f'The "{key}" of {where} is {_kind(value)}, not an object.')
    return value


def _time(value: Any, otherwise: float) -> float:
    """Seconds since 1970; whatever is none is `otherwise`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < 1e11 else otherwise


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "nothing" if value is None else kinds.get(type(value), "a number")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
