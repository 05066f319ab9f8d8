"""A picture that was dropped onto the page: its recipe, whoever's program drew it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backends.image
from backends.base import Refused
from backends.image.read_recipe import MAX_BYTES
from webui.attachments import clean_name
from webui.stranger import NoAnswer, ask, opened

SECONDS, PATIENCE = 15.0, 5.0  # for one picture; and more, for its own clock to come first
READER = Path(backends.image.__file__).parent / "read_recipe.py"


@dataclass(frozen=True)
class Foreign:
    """recipe   in the shape of `backends/image/recipe.py`, with "source" and "unknown"; {} for none
    note        why there is none, in two sentences
    kind        PNG, JPEG or WebP
    """

    recipe: dict[str, Any]
    kind: str = ""
    width: int = 0
    height: int = 0
    note: str = ""


async def read_picture(path: Path, allowed: Path) -> Foreign:
    """What the picture at `path` says of itself; its pixels are not decoded.

    allowed: the folder into which Gradio puts what browsers send; `path` must lie there, links
    followed. Raises Refused for what is no picture that can carry a recipe.
    """
    name = clean_name(path.name)
    with opened(path, allowed, name, MAX_BYTES, "Choose a smaller picture.") as file:
        try:
            answer = await ask(file, READER, name, SECONDS, PATIENCE)
        except NoAnswer as ended:
            raise Refused(
                f"{name} could not be read: it ended the program that reads it.",
                "Choose another picture.",
            ) from ended
    if "error" in answer:
        raise Refused(str(answer["error"]), str(answer["hint"]))
    return Foreign(
        answer["recipe"] or {}, answer["kind"], answer["width"], answer["height"], answer["note"]
    )
