"""The queue's routes, as the browser asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from tests.webui.image.test_queue import PARAMS, Model, held, idle, with_queue
from webui.image.gallery import Gallery
from webui.image.queue import PictureQueue
from webui.image.queue_routes import build_queue_routes


def ask(queue: PictureQueue) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(build_queue_routes(queue))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")


def test_the_list_says_what_is_drawn_and_deeds_answer_with_it(gallery: Gallery) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        async with ask(queue) as client:
            assert (await client.post("/api/queue/pause")).json()["paused"]
            first = await queue.add("starter:a", PARAMS, batches=2)
            second = await queue.add("starter:a", {**PARAMS, "prompt": "a cat"})
            said = (await client.post(f"/api/queue/{second.id}/move?before={first.id}")).json()
            assert [e["prompt"] for e in said["entries"]] == ["a cat", "a red fox"]
            await client.post(f"/api/queue/{second.id}/cancel")
            await client.post("/api/queue/resume")
            await idle(queue)
            said = (await client.get("/api/queue")).json()
            states = [(e["state"], e["runs"], e["done_runs"]) for e in said["entries"]]
            assert states == [("cancelled", 1, 0), ("done", 2, 2)] and said["idle"]
            assert said["entries"][1]["usage"]["energy_wh"] == 0.5
            assert (await client.post(f"/api/queue/{second.id}/retry")).status_code == 200
            await idle(queue)
            assert second.state == "done"
            await client.post(f"/api/queue/{first.id}/delete")
            said = (await client.post("/api/queue/clear")).json()
            assert said["entries"] == []
            assert (await client.post(f"/api/queue/{first.id}/cancel")).status_code == 404

    with_queue(gallery, body)


def test_the_newest_preview_is_served_and_no_other_file(gallery: Gallery, home: Path) -> None:
    async def body(queue: PictureQueue, model: Model) -> None:
        model.hold.clear()
        entry = await queue.add("starter:a", PARAMS)
        await held(model)
        await asyncio.sleep(0)
        async with ask(queue) as client:
            said: dict[str, Any] = (await client.get("/api/queue")).json()
            address = said["entries"][0]["preview"]
            assert address == f"/api/queue/{entry.id}/preview?v=1"
            assert (await client.get(address)).status_code == 404  # not written yet
            Image.new("RGB", (8, 8)).save(entry.preview)
            shown = await client.get(address)
            assert (
                shown.headers["content-type"] == "image/jpeg" and shown.content[:2] == b"\xff\xd8"
            )
            for path in (home / "token", home / "x.png"):
                path.write_bytes(b"secret")
                entry.preview = str(path)
                assert (await client.get(address)).status_code == 404
        model.hold.set()
        await idle(queue)

    with_queue(gallery, body)
