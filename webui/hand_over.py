"""What one tab hands to another: a model to chat with, how, and against what.

It is a text in a hidden box of the page on which it was asked for: the server keeps nothing, so
that no other page can take it. It is checked like anything from a browser. Chat's list of models
takes it first, then the rest of Chat; only when all is in its place does the page turn to Chat, so
that no question can be quicker.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.adapter_use import AdapterUse
from backends.base import Refused
from backends.params import read

Uses = tuple[dict[str, Any], ...]  # of AdapterUse, as JSON
TAKE = """(text) => {
    const take = document.querySelector('#chat-take');
    if (text && take) { window.werkbankHanded = text; take.click(); }
    return text;
}"""
TAKEN = "(_, ...rest) => [window.werkbankHanded || '', ...rest]"
TURN = "() => { document.querySelector('#tab-chat-button')?.click(); }"


@dataclass(frozen=True)
class Handed:
    """id         the model, as `bench.find` knows it; "" where nothing is to change
    fresh      in a new conversation
    adapters   that answer with it
    beside     what answers on the right: "" nothing, else a model's id
    right      the adapters of that one
    """

    id: str
    fresh: bool = False
    adapters: Uses = ()
    beside: str = ""
    right: Uses = ()

    def as_text(self) -> str:
        """For the hidden box: no two are alike, so that the same wish twice is heard twice."""
        return json.dumps({**vars(self), "key": secrets.token_hex(4)})


def handed_of(text: str) -> Handed:
    """What `as_text` wrote. Raises Refused for anything else."""
    try:
        said = json.loads(text)
        return Handed(
            str(said["id"]), bool(said["fresh"]), _uses(said["adapters"]), str(said["beside"]),
            _uses(said["right"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("What was handed over cannot be read.", "Try it again.") from error


def _uses(said: Any) -> Uses:
    return tuple(vars(read(AdapterUse, use)) for use in said)


def attached(*refs: str) -> Uses:
    """Adapters at weight 1."""
    return tuple({"ref": ref, "weight": 1.0} for ref in refs)


def build_go(elem_id: str) -> Any:
    """A hidden box: a `Handed.as_text()` that is put into it is taken by Chat, and then the page
    turns there."""
    go = gr.Textbox(visible=False, elem_id=elem_id)
    go.change(
        None, go, go, js=TAKE, queue=False, show_progress="hidden", api_visibility="private"
    )  # fmt: skip
    return go
