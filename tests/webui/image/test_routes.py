"""The gallery's routes, as the browser asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from webui.image.gallery import Gallery
from webui.image.routes import build_picture_routes

Make = Callable[..., Path]


@pytest.fixture
def client(gallery: Gallery) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(build_picture_routes(gallery))
    with TestClient(app) as client:
        yield client


def test_a_page_of_json_says_what_is_shown_and_where_it_goes_on(
    client: TestClient, gallery: Gallery, make: Make
) -> None:
    taken = [gallery.take(make(prompt=f"fox {n}", seed=n, model="m")) for n in range(3)]
    said = client.get("/api/pictures", params={"limit": 2, "words": "fox"}).json()
    assert (said["total"], said["next"]) == (3, taken[1].id)
    assert said["pictures"][0] == {
        "id": taken[2].id, "created": taken[2].created, "prompt": "fox 2", "model": "m",
        "model_title": "", "width": 16, "height": 8, "seed": 2, "favourite": False,
        "thumb": f"/api/pictures/{taken[2].id}/thumb",
    }  # fmt: skip
    rest = client.get("/api/pictures", params={"limit": 2, "before": said["next"]}).json()
    assert ([p["id"] for p in rest["pictures"]], rest["next"]) == ([taken[0].id], "")
    assert client.get("/api/pictures/models").json()["models"][0]["count"] == 3


def test_files_come_with_a_name_and_may_be_kept_for_ever(
    client: TestClient, gallery: Gallery, make: Make
) -> None:
    kept = gallery.take(make(prompt="Füchse: am Meer/Strand", seed=12))
    file = client.get(f"/api/pictures/{kept.id}/file")
    assert file.content == gallery.path(kept.id).read_bytes()
    assert file.headers["content-type"] == "image/png"
    assert file.headers["content-disposition"] == (
        "attachment; filename*=utf-8''F%C3%BCchse%20am%20Meer%20Strand%2012.png"
    )
    assert "immutable" in file.headers["cache-control"]
    shown = client.get(f"/api/pictures/{kept.id}/file", params={"show": 1})
    assert shown.headers["content-disposition"].startswith("inline")
    thumb = client.get(f"/api/pictures/{kept.id}/thumb")
    assert thumb.headers["content-type"] == "image/webp" and thumb.content[:4] == b"RIFF"
    assert client.get(f"/api/pictures/{kept.id}/recipe").json()["seed"] == 12


def test_like_delete_and_restore_are_one_post_each(
    client: TestClient, gallery: Gallery, make: Make
) -> None:
    kept = gallery.take(make(prompt="fox"))
    at = f"/api/pictures/{kept.id}"
    assert client.post(f"{at}/favourite").json() == {"status": "ok"}
    assert client.get("/api/pictures", params={"favourites": 1}).json()["total"] == 1
    assert client.post(f"{at}/favourite", params={"on": False}).status_code == 200
    assert client.get("/api/pictures", params={"favourites": 1}).json()["total"] == 0
    assert client.post(f"{at}/delete").status_code == client.post(f"{at}/delete").status_code == 200
    assert client.get(f"{at}/file").status_code == 404
    assert client.get("/api/pictures/deleted").json()["pictures"][0]["id"] == kept.id
    assert client.post(f"{at}/restore").status_code == 200
    assert client.get(f"{at}/file").status_code == 200


@pytest.mark.parametrize("what", ["thumb", "file", "recipe"])
@pytest.mark.parametrize("id", ["20260101-000000-000-a1b2", "..", "%2e%2e%2ftoken", "x" * 5000])
def test_what_is_not_there_is_404_with_two_sentences(
    what: str, id: str, client: TestClient
) -> None:
    answer = client.get(f"/api/pictures/{id}/{what}")
    assert answer.status_code == 404
    assert answer.json() in (
        {"error": "This picture is not there any more. Reload the gallery."},
        {"detail": "Not Found"},  # the address itself leads nowhere
    )
    assert client.post(f"/api/pictures/{id}/delete").status_code in (404, 405)
