"""The queue of pictures as the browser asks for it: a list to poll, the newest preview, and deeds.

The queue belongs to the event loop, so every route is a coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from backends.base import Refused
from webui.image.entry import Entry
from webui.image.queue import PictureQueue, Seen

PREVIEWS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def build_queue_routes(queue: PictureQueue) -> APIRouter:
    routes = APIRouter()

    @routes.get("/api/queue")
    async def listed() -> Response:
        """Every entry, and the newest picture there is: another one is a reason to ask for the
        gallery's first page."""
        try:
            newest = await asyncio.to_thread(queue.gallery.page, limit=1)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 503)
        return JSONResponse(as_json(queue.seen) | {"newest": newest[0].id if newest else ""})

    @routes.get("/api/queue/{id}/preview")
    async def preview(id: str) -> Response:
        """What a picture looks like so far; another address for each (see `as_json`)."""
        try:
            path = Path(queue.get(id).preview)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 404)
        making = queue.gallery.files.making.resolve()
        kind = PREVIEWS.get(path.suffix.lower())
        if not kind or not path.is_file() or not path.resolve().is_relative_to(making):
            return JSONResponse({"error": "There is no preview at the moment."}, 404)
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-store"})

    @routes.post("/api/queue/pause")
    async def pause() -> Response:
        queue.pause()
        return JSONResponse(as_json(queue.seen))

    @routes.post("/api/queue/resume")
    async def resume() -> Response:
        queue.resume()
        return JSONResponse(as_json(queue.seen))

    @routes.post("/api/queue/clear")
    async def clear() -> Response:
        queue.clear()
        return JSONResponse(as_json(queue.seen))

    @routes.post("/api/queue/{id}/move")
    async def move(id: str, before: str = "") -> Response:
        return await _done(queue, lambda: queue.move(id, before))

    @routes.post("/api/queue/{id}/cancel")
    async def cancel(id: str) -> Response:
        return await _done(queue, lambda: queue.cancel(id))

    @routes.post("/api/queue/{id}/retry")
    async def retry(id: str) -> Response:
        return await _done(queue, lambda: queue.retry(id))

    @routes.post("/api/queue/{id}/delete")
    async def delete(id: str) -> Response:
        return await _done(queue, lambda: queue.delete(id))

    return routes


def as_json(seen: Seen) -> dict[str, Any]:
    """The body of `/api/queue`."""
    return {
        "entries": [entry_json(entry) for entry in seen.entries],
        "paused": seen.paused,
        "why": seen.why,
        "notice": seen.notice,
        "idle": seen.idle,
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """One entry without its files and without what its runs change."""
    shown = ("id", "model", "title", "state", "status", "note", "step", "total", "added", "began",
             "ended", "sheet", "page", "pictures", "seconds", "usage")  # fmt: skip
    return {
        **{name: getattr(entry, name) for name in shown},
        "prompt": str(entry.params.get("prompt", "")),
        "runs": len(entry.runs),
        "done_runs": entry.done_runs,
        "grid": entry.grid is not None,
        "preview": f"/api/queue/{entry.id}/preview?v={entry.previews}" if entry.preview else "",
    }


async def _done(queue: PictureQueue, deed: Callable[[], Awaitable[Any] | None]) -> Response:
    try:
        if (under_way := deed()) is not None:
            await under_way
    except Refused as refused:
        return JSONResponse({"error": str(refused)}, 404)
    return JSONResponse(as_json(queue.seen))
