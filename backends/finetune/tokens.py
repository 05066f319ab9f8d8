"""Rows as the model will see them: token by token, and which of them the loss is taken of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backends.base import Refused
from backends.finetune.data.fixes import Made
from backends.finetune.data.rows import Fault
from backends.finetune.sft_rows import IGNORED, Encoder

SHOWN = 1500  # tokens of a row that are told one by one
LOST = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 6  # tokens that one character may be cut into
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # stands for a blank in SentencePiece's tokens


def row_tokens(made: Made, encoder: Encoder, length: int) -> dict[str, Any]:
    """One row, for an Item: number, place, and either its fault or its tokens.

    tokens, trained: of the whole row; kept, learned: of what `length` (tokens) leaves of it.
    pieces: texts of the first `SHOWN` tokens; "" goes on with the character of the one before.
    marks: for each piece "0" read, "1" learned, "2" special, "3" special and learned.
    """
    row, example = made
    told: dict[str, Any] = {"number": row.number, "place": row.place}
    if isinstance(example, Fault):
        return {**told, "fault": example.text}
    try:
        ids, labels = encoder.encode(example)
    except Refused as refused:
        return {**told, "fault": str(refused)}
    except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        text = f"It cannot be written with this model's chat template ({str(error)[:200]})."
        return {**told, "fault": text}
    tokenizer, special = encoder.tokenizer, set(encoder.tokenizer.all_special_ids)
    learned = [label != IGNORED for label in labels]
    shown = list(zip(ids, learned, strict=True))[:SHOWN]
    return {
        **told,
        "tokens": len(ids),
        "trained": sum(learned),
        "kept": min(len(ids), length),
        "learned": sum(learned[:length]),
        "length": length,
        "pieces": pieces(tokenizer, ids[:SHOWN]),
        "marks": "".join(str(2 * (i in special) + learns) for i, learns in shown),
    }


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; of a character that several make, at the first, and "" at the rest.

    Joined they are the whole text, as far as the tokens make whole characters.
    """
    made: list[str] = []
    at = 0
    while at < len(ids):
        taken, text = 1, _text(tokenizer, ids[at : at + 1])
        while LOST in text and taken < LONGEST_CHARACTER and at + taken < len(ids):
            longer = _text(tokenizer, ids[at : at + taken + 1])
            taken += 1
            if LOST not in longer:
                text = longer
                break
        else:
            taken = 1  # no character comes of it: shown as lost
        made += [text, *[""] * (taken - 1)]
        at += taken
    return made


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    first = tokenizer.convert_ids_to_tokens(int(ids[0])) or ""
    if first.startswith(SPACE) and not text.startswith(" "):  # decode takes a first blank away
        text = " " + text
    return str(text)
