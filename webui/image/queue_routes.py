"""The queue of pictures as the browser asks for it, and its buttons (assets/pictures.js)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from backends.base import Refused
from webui.image.entry import Entry
from webui.image.queue import PictureQueue

TITLE = 90  # characters of a prompt


def build_queue_routes(queue: PictureQueue) -> APIRouter:
    routes = APIRouter()

    @routes.get("/api/pictures/queue")
    async def listed() -> Response:
        """Every entry, and the newest picture of the gallery: a new one is a reason to ask for
        its first page."""
        seen = queue.seen
        try:
            newest = await asyncio.to_thread(queue.gallery.page, limit=1)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 503)
        return JSONResponse({
            "entries": [row(entry) for entry in seen.entries], "paused": seen.paused,
            "why": seen.why, "notice": seen.notice, "newest": newest[0].id if newest else "",
        })  # fmt: skip

    @routes.get("/api/pictures/queue/{id}/preview")
    def preview(id: str) -> Response:
        try:
            path = Path(queue.get(id).preview)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 404)
        making = queue.gallery.files.making.resolve()
        if not path.name or not path.resolve().is_relative_to(making) or not path.is_file():
            return JSONResponse({"error": "There is no preview. Wait for the next step."}, 404)
        return FileResponse(path, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @routes.post("/api/pictures/queue/{act}")
    async def act(act: str, id: str = "") -> Response:
        """cancel, retry, up, forget an entry; pause, resume, clear the queue."""
        try:
            if act == "retry":
                await queue.retry(id)
            elif act == "up":
                queue.move(id, one_before(queue, id))
            elif act in (of_one := {"cancel": queue.cancel, "forget": queue.delete}):
                of_one[act](id)
            elif act in (of_all := {"pause": queue.pause, "resume": queue.resume,
                                    "clear": queue.clear}):  # fmt: skip
                of_all[act]()
            else:
                raise Refused("The queue has no such button.", "Reload the page.")
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 404)
        return JSONResponse({"status": "ok"})

    return routes


def one_before(queue: PictureQueue, id: str) -> str:
    """The id of what waits just before that one; its own where it is the first. Raises Refused."""
    waiting = [entry.id for entry in queue.entries if entry.state == "waiting"]
    queue.get(id)
    return waiting[max(0, waiting.index(id) - 1)] if id in waiting else id


def row(entry: Entry) -> dict[str, Any]:
    """An entry as the browser has it: no paths, and of the settings the prompt alone."""
    prompt = str(entry.params.get("prompt") or "").strip() or entry.title
    title = prompt if len(prompt) <= TITLE else prompt[: TITLE - 1] + "…"
    looks = f"api/pictures/queue/{entry.id}/preview?n={entry.step:g}-{entry.done_runs}"
    return {
        "id": entry.id, "title": title, "model": entry.title, "state": entry.state,
        "step": entry.step, "total": entry.total, "note": entry.status, "message": entry.note,
        "round": entry.done_runs, "rounds": len(entry.runs),
        "preview": looks if entry.preview else "", "pictures": entry.pictures,
        "sheet": entry.sheet, "seconds": round(entry.seconds, 1),
    }  # fmt: skip
