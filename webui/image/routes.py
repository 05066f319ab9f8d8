"""The gallery as the browser asks for it: pages of JSON, small pictures, whole files.

A picture is named by its id alone. Routes that touch the disk are plain functions: they run in a
thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from backends.base import Refused
from webui.image.gallery import PAGE, Gallery, Wanted
from webui.store.transfer import file_name

# A picture never changes under its id. "private": no proxy keeps it.
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def build_picture_routes(gallery: Gallery) -> APIRouter:
    routes = APIRouter()

    @routes.get("/api/pictures")
    def listed(
        words: str = "", model: str = "", since: float | None = None, until: float | None = None,
        favourites: bool = False, before: str = "", limit: int = PAGE,
    ) -> Response:  # fmt: skip
        """A page of pictures, newest first; `total` counts all pages, `next` is the next page's
        `before`, empty at the end."""
        wanted = Wanted(words[:1000], model, since, until, favourites, before)
        return _answer(lambda: page(gallery, wanted, limit))

    @routes.get("/api/pictures/models")
    def models() -> Response:
        return _answer(
            lambda: {"models": [{"ref": r, "title": t, "count": n} for r, t, n in gallery.models()]}
        )

    @routes.get("/api/pictures/deleted")
    def deleted() -> Response:
        return _answer(lambda: {"pictures": [p.as_json() for p in gallery.deleted()]})

    @routes.get("/api/pictures/{id}/recipe")
    def recipe(id: str) -> Response:
        return _answer(lambda: gallery.recipe(id))

    @routes.get("/api/pictures/{id}/thumb")
    def thumb(id: str) -> Response:
        try:
            return FileResponse(gallery.thumb(id), media_type="image/webp", headers=FOR_EVER)
        except Refused as refused:
            return _missing(refused)

    @routes.get("/api/pictures/{id}/file")
    def file(id: str, show: bool = False) -> Response:
        """The PNG, saved under a name that says what is in it; `show` opens it in the browser."""
        try:
            path = gallery.path(id)
            named = saved_name(gallery, id)
        except Refused as refused:
            return _missing(refused)
        how = "inline" if show else "attachment"
        said = {**FOR_EVER, "Content-Disposition": f"{how}; filename*=utf-8''{quote(named)}"}
        return FileResponse(path, media_type="image/png", headers=said)

    @routes.post("/api/pictures/{id}/favourite")
    async def favourite(id: str, on: bool = True) -> Response:
        return await _done(lambda: gallery.favourite(id, on))

    @routes.post("/api/pictures/{id}/delete")
    async def delete(id: str) -> Response:
        return await _done(lambda: gallery.delete(id))

    @routes.post("/api/pictures/{id}/restore")
    async def restore(id: str) -> Response:
        return await _done(lambda: gallery.restore(id))

    return routes


def page(gallery: Gallery, wanted: Wanted, limit: int = PAGE) -> dict[str, Any]:
    """The body of `/api/pictures`. Raises Refused."""
    limit = max(1, limit)
    found = gallery.page(wanted, limit)
    return {
        "pictures": [picture.as_json() for picture in found],
        "total": gallery.count(wanted),
        "next": found[-1].id if len(found) == limit else "",
        "notice": gallery.notice,
    }


def saved_name(gallery: Gallery, id: str) -> str:
    """The beginning of its prompt and its seed, as every system takes a name."""
    said = gallery.recipe(id)
    seed = said.get("seed")
    prompt = file_name(str(said.get("prompt") or "picture")[:200], "png").removesuffix(".png")
    return f"{prompt} {seed}.png" if isinstance(seed, int) else f"{prompt} {id}.png"


def _answer(made: Callable[[], dict[str, Any]]) -> Response:
    try:
        return JSONResponse(made())
    except Refused as refused:
        return _missing(refused)


async def _done(deed: Callable[[], None]) -> Response:
    try:
        await asyncio.to_thread(deed)
    except Refused as refused:
        return _missing(refused)
    return JSONResponse({"status": "ok"})


def _missing(refused: Refused) -> Response:
    return JSONResponse({"error": str(refused)}, 404)
