"""What a dataset is: each of its first rows votes, and the evidence is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backends.finetune.data.forms import Mapping

VOTERS = 1000  # rows that are asked
ENOUGH = 0.5  # of them, that must agree

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
QUESTIONS = ("prompt", "question", "query", "problem", "user", "input", "instruction", "frage")
ANSWERS = ("completion", "response", "answer", "output", "solution", "assistant", "target",
           "answers", "antwort")  # fmt: skip
INPUTS = ("input", "context")
TEXTS = ("text", "content", "document", "body", "raw_content")
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
LABELS = ("label", "kto_tag", "labels")


@dataclass(frozen=True)
class Recognised:
    """`title`: "Alpaca", …, or "Columns" where somebody has to map them (`mapping` is then a try).

    `agree` of `asked` rows are so; `unused` columns are left out of a cleaned file.
    """

    title: str
    mapping: Mapping
    evidence: str
    asked: int
    agree: int
    columns: tuple[str, ...]
    unused: tuple[str, ...] = ()

    @property
    def sure(self) -> bool:
        return not self.mapping.missing()


def recognise(rows: Iterable[dict[str, Any]]) -> Recognised:
    """From as many rows as are given; a reader's first `VOTERS`, usually."""
    votes: Counter[tuple[str, Mapping]] = Counter()
    columns: dict[str, None] = {}
    asked = 0
    for row in rows:
        asked += 1
        columns.update(dict.fromkeys(row))
        found = vote(row)
        if found:
            votes[found] += 1
    names = tuple(columns)
    if not votes or (best := votes.most_common(1)[0])[1] < ENOUGH * asked:
        told = ", ".join(names[:12]) or "none"
        return Recognised(
            "Columns", Mapping(form="instruction"), f"Its columns are no known form: {told}.",
            asked, 0, names, names,
        )  # fmt: skip
    (title, mapping), agree = best
    mapping = _with_options(mapping, votes, title)
    used = mapping.columns().values()
    listed = " and ".join(filter(None, [", ".join(list(used)[:-1]), list(used)[-1]]))
    evidence = f"{agree:,} of {asked:,} rows have {listed}."
    unused = tuple(name for name in names if name not in used)
    return Recognised(title, mapping, evidence, asked, agree, names, unused)


def _with_options(mapping: Mapping, votes: Counter[tuple[str, Mapping]], title: str) -> Mapping:
    """Optional columns that other voters of the same title have: not each row has tools."""
    for (other, theirs), _ in votes.most_common():
        if other != title or theirs.form != mapping.form:
            continue
        more = {
            name: column
            for name, column in theirs.columns().items()
            if name in ("system", "tools", "input", "history") and not vars(mapping)[name]
        }
        if more:
            mapping = Mapping(**{**vars(mapping), **more})
    return mapping


def vote(row: dict[str, Any]) -> tuple[str, Mapping] | None:
    """What one row says it is."""
    names = {str(name).strip().lower(): name for name in reversed(row)}

    def first(wanted: tuple[str, ...], *but: str) -> str:
        return next((names[n] for n in wanted if n in names and names[n] not in but), "")

    extra = {"system": first(SYSTEMS), "tools": first(TOOLS)}
    talk = next((names[n] for n in CONVERSATIONS if n in names and _is_talk(row[names[n]])), "")
    chosen, rejected = names.get("chosen", ""), names.get("rejected", "")
    label = first(LABELS)
    question = first(QUESTIONS, extra["system"])
    answer = first(ANSWERS, question)
    if chosen and rejected:
        prompt = "" if talk else question
        made = Mapping("preference", messages=talk, prompt=prompt, chosen=chosen, rejected=rejected,
                       **extra)  # fmt: skip
        return f"Preferences ({_kind(row[chosen])})", made
    if label and (talk or (question and answer)) and _is_label(row[label]):
        both = {"messages": talk} if talk else {"prompt": question, "answer": answer}
        return "KTO (label)", Mapping("label", label=label, **both, **extra)
    if talk:
        turns = row[talk]
        told = '"from"' in turns if isinstance(turns, str) else "from" in turns[0]
        title = "ShareGPT" if told else "Messages"
        return title, Mapping("chat", messages=talk, **extra)
    if "instruction" in names and (answer := first(ANSWERS)):
        return "Alpaca", Mapping(
            "instruction", prompt=names["instruction"], input=first(INPUTS, answer),
            answer=answer, history=names.get("history", ""), **extra,
        )  # fmt: skip
    if question and answer:
        return "Question and answer", Mapping(
            "instruction",
            prompt=question,
            input=first(INPUTS, question, answer),
            answer=answer,
            **extra,
        )
    text = first(TEXTS)
    if not text and len(row) == 1 and isinstance(next(iter(row.values())), str):
        text = next(iter(row))
    return ("Text", Mapping("text", text=text)) if text and isinstance(row[text], str) else None


def _is_talk(value: Any) -> bool:
    if isinstance(value, str):  # JSON in a cell of a table: looked at by its start
        return value.lstrip()[:2] == "[{"
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_label(value: Any) -> bool:
    return isinstance(value, bool) or str(value).strip().lower() in ("0", "1", "true", "false")


def _kind(value: Any) -> str:
    """What the answers of a pair are."""
    if isinstance(value, dict):
        return "ShareGPT style" if "from" in value else "messages"
    return "conversations" if isinstance(value, list) else "texts"
