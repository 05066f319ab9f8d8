"""The process that reads the recipe of one foreign picture: a hostile one can end it, nothing else.

The picture is its stdin. On stdout goes one JSON line: {"recipe": … or null, "kind", "width",
"height", "note"}, or {"error", "hint"}. Pixels are never decoded. It has a clock that needs no GIL,
a limit on memory, and may neither write a file nor open a connection nor start a program. Started
by `webui/image/foreign.py`, by its file name: whoever looks for workers on command lines does not
find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import Refused
from backends.image.foreign import a1111, comfyui, fooocus, invokeai
from backends.image.foreign.containers import Texts, texts_of
from backends.image.foreign.told import FLOATS, INTS, PROMPTS, TEXTS, Told, mapping, parsed
from backends.image.recipe import A1111, OWN, short_name
from backends.runtime.reader_process import answer_once

MEMORY_BYTES = 2**29  # of address space
MAX_BYTES = 100 * 2**20  # of a picture
WHERE_A1111 = (A1111, "UserComment", "Comment", "Description", "ImageDescription")
MESSAGE = "There is no recipe in this picture. Messengers and most websites take it out."


def read(data: bytes) -> dict[str, Any]:
    """What is printed. Raises Refused for what is no picture that can carry a recipe."""
    if not data:
        raise Refused("This file is empty.", "Choose a picture.")
    if len(data) > MAX_BYTES:
        raise Refused(
            f"This picture has more than {MAX_BYTES // 2**20} MB.", "Choose a smaller one."
        )
    found = texts_of(data)
    if found is None:
        raise Refused("This is no PNG, JPEG or WebP.", "Only these three can carry a recipe.")
    recipe = recipe_of(found)
    note = "" if recipe else MESSAGE
    if not recipe and found.too_long:
        note = "What this picture says about itself is too long to be read."
    return {"recipe": recipe, "kind": found.kind, "width": found.width, "height": found.height,
            "note": note}  # fmt: skip


def recipe_of(found: Texts) -> dict[str, Any] | None:
    """In the shape of `recipe.py`, with "source" and "unknown"; None where nothing is known.

    Werkbank's own comes first, then what says most: a text of AUTOMATIC1111's before a graph.
    """
    texts = with_graphs(found.texts)
    recipe = own(texts.get(OWN)) or invokeai.read(texts)
    for name in WHERE_A1111:
        if not recipe and name in texts:
            recipe = fooocus.read(texts[name]) or a1111.read(texts[name])
    recipe = recipe or comfyui.read(texts)
    if recipe and found.width and found.height and found.width * found.height < 2**40:
        recipe = {"width": found.width, "height": found.height, **recipe}
    return recipe


def with_graphs(texts: Mapping[str, str]) -> dict[str, str]:
    """ComfyUI's WebP has its graphs in EXIF, as "prompt:{…}" and "workflow:{…}"."""
    found = dict(texts)
    for text in texts.values():
        for name in ("prompt", "workflow"):
            if text.startswith((f"{name}:{{", f"{name}: {{")):
                found.setdefault(name, text[len(name) + 1 :])
    return found


def own(text: str | None) -> dict[str, Any] | None:
    """Werkbank's JSON, every value checked: whoever made the file could write anything."""
    said = mapping(parsed(text))
    if not isinstance(said.get(OWN), int):
        return None
    told = Told("werkbank")
    for name, value in said.items():
        if name in (*PROMPTS, *TEXTS, *INTS, *FLOATS):
            told.put(name, value)
        elif name not in (OWN, "adapters", "versions"):
            told.other(name, value)
    adapters = said.get("adapters")
    for one in map(mapping, adapters if isinstance(adapters, list) else []):
        ref = str(one.get("ref") or "")[:500]
        before = len(told.said.get("adapters", ()))
        told.adapter(str(one.get("name") or short_name(ref)), one.get("weight", 1.0))
        if len(told.said["adapters"]) > before:
            told.said["adapters"][-1]["ref"] = ref
    versions = mapping(said.get("versions"))
    told.said["versions"] = {str(k)[:40]: str(v)[:40] for k, v in list(versions.items())[:20]}
    return told.made()


def answer(data: bytes) -> dict[str, Any]:
    """`read` as what is printed."""
    try:
        return read(data)
    except Refused as refused:
        problem = refused
    except MemoryError:
        problem = Refused("This picture is too large to be read.", "Choose a smaller one.")
    return {"error": problem.message, "hint": problem.hint}


def main() -> None:
    answer_once(answer, MEMORY_BYTES, MAX_BYTES)


if __name__ == "__main__":
    main()
