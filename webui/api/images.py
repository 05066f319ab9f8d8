"""POST /v1/images/generations: a text becomes pictures, each as a PNG in base64."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backends.events import Artifact, Done, Failed
from backends.image.params import ImageParams
from backends.models.library import Listed
from backends.params import read
from webui.api.answering import failure
from webui.api.asked import IGNORED, find
from webui.api.errors import ApiError
from webui.bench import Bench
from webui.image.native import usual

MOST = 10  # pictures of one request, as OpenAI has it
SIZE = re.compile(r"(\d{2,4})x(\d{2,4})")
RENAMED = {"negative_prompt": "negative"}
# Fields of OpenAI's that choose nothing here, with the values that ask for what is done anyway.
SAME: dict[str, tuple[Any, ...]] = {
    "response_format": (None, "b64_json"), "output_format": (None, "png"),
    "quality": (None, "auto", "standard"), "style": (None, ""), "background": (None, "auto"),
    "moderation": (None, "auto"), "stream": (None, False), "partial_images": (None, 0),
    "output_compression": (None, 100),
}  # fmt: skip
READ_HERE = {"model", "n", "size", "prompt"}
NOT_AS_GIVEN = {"image", "mask", "extend", "controls", "folder", "name", "images", "preview_every"}


@dataclass(frozen=True)
class AskedPictures:
    listed: Listed
    params: dict[str, Any]
    size: str
    visitor: str


def understand(bench: Bench, body: dict[str, Any], visitor: str) -> AskedPictures:
    """Raises ApiError, in a sentence, for whatever is missing, wrong or not supported."""
    listed = _model(bench, body.get("model"))
    prompt, count = body.get("prompt"), body.get("n")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ApiError(400, "The field 'prompt' is missing. Write what is to be seen.")
    if count is not None and (type(count) is not int or not 1 <= count <= MOST):
        raise ApiError(400, f"The field 'n' is no number from 1 to {MOST}. Send one, or none.")
    params = {**usual(listed), "prompt": prompt, "images": count or 1, **_size(body.get("size"))}
    known = {f.name for f in fields(ImageParams)} - NOT_AS_GIVEN
    for key, value in body.items():
        name = RENAMED.get(key, key)
        if key in READ_HERE or key in IGNORED:
            continue
        if key in SAME:
            if value not in SAME[key]:
                raise ApiError(
                    400, f"The field '{key}' cannot be {str(value)[:40]!r} here. Leave it out: "
                    "pictures come as PNG in b64_json.",
                )  # fmt: skip
        elif name in known and value is not None:
            params[name] = value
        elif value is not None:
            raise ApiError(400, f"The field '{key}' is not known. Leave it out.")
    try:
        wanted = read(ImageParams, params)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    return AskedPictures(listed, params, f"{wanted.width}x{wanted.height}", visitor)


def _model(bench: Bench, name: Any) -> Listed:
    """The one that is named; without a name the first that can draw."""
    if name is None:
        usable = [m for m in bench.models("image") if not m.problem]
        if not usable:
            raise ApiError(
                404, "There is no image model on this machine. Get one on the Models tab.",
                code="model_not_found",
            )  # fmt: skip
        return usable[0]
    listed = find(bench, str(name))
    if listed.task != "image":
        raise ApiError(400, f"{name} is not an image model. Name one of /v1/models.")
    if listed.problem:
        raise ApiError(400, listed.problem)
    return listed


def _size(size: Any) -> dict[str, int]:
    """Width and height in pixels; {} for "auto"."""
    if size in (None, "auto"):
        return {}
    match = SIZE.fullmatch(size) if isinstance(size, str) else None
    if not match:
        raise ApiError(400, "The field 'size' is no size. Write it as 512x512, or send 'auto'.")
    return {"width": int(match[1]), "height": int(match[2])}


async def drawn(bench: Bench, asked: AskedPictures) -> dict[str, Any]:
    """The body of the answer. Raises ApiError, Busy."""
    folder = bench.temp / "api-pictures" / secrets.token_hex(8)
    made: list[Path] = []
    usage: dict[str, Any] = {}
    try:
        await asyncio.to_thread(folder.mkdir, 0o700, True, True)
        params = {**asked.params, "folder": str(folder), "name": "picture"}
        drawing = bench.generate(asked.listed, params, asked.visitor)
        async with contextlib.aclosing(drawing) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise failure(event)
                if isinstance(event, Artifact) and event.kind == "image":
                    made.append(Path(event.path))
                elif isinstance(event, Done):
                    usage = event.usage
        inside = [path for path in made if path.resolve().is_relative_to(folder.resolve())]
        data = await asyncio.to_thread(lambda: [{"b64_json": encoded(path)} for path in inside])
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)
    if not data:
        raise ApiError(500, "No picture was drawn. Send it again.", "server_error")
    told = {key: usage[key] for key in ("seed", "steps", "seconds") if key in usage}
    return {"created": int(time.time()), "data": data, "output_format": "png",
            "size": asked.size, "werkbank": told}  # fmt: skip


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
