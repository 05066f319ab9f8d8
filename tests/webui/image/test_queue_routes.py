"""The queue as the browser asks for it: no paths, previews of its own folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from webui.image.entry import Entry, Run
from webui.image.gallery import Gallery
from webui.image.queue import PictureQueue
from webui.image.queue_routes import build_queue_routes

IDS = ("a" * 16, "b" * 16, "c" * 16)


@pytest.fixture
def queue(gallery: Gallery) -> PictureQueue:
    def nobody(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is drawn here")

    made = PictureQueue(gallery, nobody, nobody)
    made.entries = [
        Entry(id, "folder:here", "Here", params={"prompt": f"fox {n}"}, runs=[Run(), Run()])
        for n, id in enumerate(IDS)
    ]
    return made


@pytest.fixture
def client(queue: PictureQueue) -> TestClient:
    app = FastAPI()
    app.include_router(build_queue_routes(queue))
    return TestClient(app)


def listed(client: TestClient) -> list[str]:
    return [entry["id"][0] for entry in client.get("/api/pictures/queue").json()["entries"]]


def test_an_entry_is_told_without_its_paths(
    client: TestClient, queue: PictureQueue, home: Path
) -> None:
    entry = queue.entries[0]
    entry.preview, entry.params["image"] = str(home / "secret.jpg"), str(home / "in.png")
    said = client.get("/api/pictures/queue")
    assert str(home) not in said.text
    first = said.json()["entries"][0]
    assert (first["title"], first["rounds"], first["state"]) == ("fox 0", 2, "waiting")
    assert first["preview"].startswith(f"api/pictures/queue/{IDS[0]}/preview?n=")
    assert said.json()["newest"] == ""


def test_a_preview_comes_from_where_workers_draw_and_nowhere_else(
    client: TestClient, queue: PictureQueue, gallery: Gallery, home: Path
) -> None:
    secret = home / "secret.jpg"
    secret.write_bytes(b"secret")
    place = gallery.files.making / "run"
    place.mkdir(parents=True)
    (place / "look.jpg").write_bytes(b"\xff\xd8look")
    (place / "link.jpg").symlink_to(secret)
    url = f"/api/pictures/queue/{IDS[0]}/preview"
    for path, status in ((place / "look.jpg", 200), (secret, 404), (place / "link.jpg", 404),
                         (place / "gone.jpg", 404), ("", 404)):  # fmt: skip
        queue.entries[0].preview = str(path)
        assert client.get(url).status_code == status, path
    assert client.get("/api/pictures/queue/..%2f..%2fx/preview").status_code == 404


def test_the_buttons_move_cancel_and_remove(client: TestClient, queue: PictureQueue) -> None:
    def press(act: str, id: str = "") -> int:
        return client.post(f"/api/pictures/queue/{act}", params={"id": id}).status_code

    assert press("up", IDS[2]) == 200 and listed(client) == ["a", "c", "b"]
    assert press("up", IDS[0]) == 200 and listed(client) == ["a", "c", "b"]
    assert press("pause") == 200 and client.get("/api/pictures/queue").json()["paused"] is True
    assert press("resume") == 200 and client.get("/api/pictures/queue").json()["paused"] is False
    assert press("cancel", IDS[1]) == 200
    assert client.get("/api/pictures/queue").json()["entries"][2]["state"] == "cancelled"
    assert press("forget", IDS[1]) == 200 and listed(client) == ["a", "c"]
    assert press("cancel", "../x") == 404 and press("explode", IDS[0]) == 404
