"""What one tab hands to another: a model to chat with, how, and against what.

Chat's list of models takes it, and Chat gets it as the text of a hidden box, so that it comes as an
event of that page: the text is checked like anything from a browser. Only when all is in its place
does the page turn to Chat, so that no question can be quicker.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.chat.params import AdapterUse
from backends.params import read

Uses = tuple[dict[str, Any], ...]  # of AdapterUse, as JSON
TAKE = """(v) => { if (v) document.querySelector('#chat-take')?.click(); return v; }"""
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
    """A hidden box: whatever `going()` is put into it has Chat take what was handed to it, and
    then turns the page there."""
    go = gr.Textbox(visible=False, elem_id=elem_id)
    go.change(
        None, go, go, js=TAKE, queue=False, show_progress="hidden", api_visibility="private"
    )  # fmt: skip
    return go


def going() -> str:
    """A value for the box of `build_go` that is not the last one."""
    return secrets.token_hex(4)
