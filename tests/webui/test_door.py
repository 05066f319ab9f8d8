from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from webui.door import TRUSTED, Door, host_name, keep_token, own_hosts

TOKEN = "right-token"


@pytest.fixture
def client() -> TestClient:
    async def trusted(request: object) -> JSONResponse:
        return JSONResponse({"trusted": request.scope[TRUSTED]})  # type: ignore[attr-defined]

    routes = [Route(p, trusted, methods=["GET", "POST"]) for p in ("/", "/healthz", "/v1/models")]
    door = Door(Starlette(routes=routes), own_hosts("127.0.0.1"), TOKEN)
    return TestClient(door, base_url="http://127.0.0.1:7860", follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere", "/healthz/", "/HEALTHZ"])
def test_without_the_token_every_path_is_locked(client: TestClient, path: str) -> None:
    wrong = (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "werkbank_0=x; ;;"},
    )
    for headers in wrong:
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["message"].count(". ") >= 1


def test_healthz_alone_is_open_and_only_to_get(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"trusted": False}
    assert client.post("/healthz").status_code == 401


def test_a_bearer_token_opens(client: TestClient) -> None:
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json() == {"trusted": True}


def test_the_link_sets_a_cookie_and_hides_the_token(client: TestClient) -> None:
    answer = client.get(f"/?token={TOKEN}&__theme=dark")
    assert answer.status_code == 303 and answer.headers["location"] == "/?__theme=dark"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and TOKEN not in cookie
    assert client.get("/").json() == {"trusted": True}  # the client kept the cookie


def test_the_cookie_is_no_token_and_the_token_is_no_cookie(client: TestClient) -> None:
    name, value = client.get(f"/?token={TOKEN}").headers["set-cookie"].split(";")[0].split("=")
    client.cookies.clear()
    bearer = client.get("/v1/models", headers={"Authorization": f"Bearer {value}"})
    raw = client.get("/v1/models", headers={"Cookie": f"{name}={TOKEN}"})
    assert bearer.status_code == raw.status_code == 401
    assert client.get("/v1/models", headers={"Cookie": f"{name}={value}"}).status_code == 200


def test_a_wrong_token_in_the_link_is_refused(client: TestClient) -> None:
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/?token=ü").status_code == 401
    assert client.get(f"/v1/models?token={TOKEN}").status_code == 401  # only the page's own link


def test_a_foreign_host_is_refused_even_with_the_token(client: TestClient) -> None:
    key = {"Authorization": f"Bearer {TOKEN}"}
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[::1", "localhost.evil:7860"):
        assert client.get("/healthz", headers={**key, "Host": host}).status_code == 421
    for host in ("localhost:1", "[::1]:7860", "LOCALHOST"):
        assert client.get("/healthz", headers={**key, "Host": host}).status_code == 200


def test_a_foreign_origin_is_refused_even_with_the_token(client: TestClient) -> None:
    key = {"Authorization": f"Bearer {TOKEN}"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8000", "", "127.0.0.1:7860"):
        answer = client.post("/v1/models", headers={**key, "Origin": origin})
        assert answer.status_code == 403
    preflight = client.options("/v1/models", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 403 and "access-control-allow-origin" not in preflight.headers
    own = client.post("/v1/models", headers={**key, "Origin": "http://127.0.0.1:7860"})
    assert own.status_code == 200


def test_a_browser_gets_a_page_that_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401 and "Open the link" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "http" not in policy


def test_no_token_still_checks_host_and_origin() -> None:
    door = Door(Starlette(routes=[]), ["localhost"], None)
    client = TestClient(door, base_url="http://localhost")
    assert client.get("/").status_code == 404
    assert client.get("/", headers={"Host": "evil"}).status_code == 421
    assert client.get("/", headers={"Origin": "http://evil"}).status_code == 403


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "new home" / "token"
    token = keep_token(file)
    assert len(token) >= 30 and keep_token(file) == token
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600


def test_host_names_are_read_with_and_without_ports() -> None:
    assert [host_name(h) for h in ("a:1", "A", "[::1]:7", "[::1]", "1.2.3.4:5")] == [
        "a", "a", "::1", "::1", "1.2.3.4"
    ]  # fmt: skip


def test_a_cookie_of_backslashes_takes_no_time(client: TestClient) -> None:
    began = time.monotonic()
    answer = client.get("/", headers={"cookie": 'a="' + "\\" * 60_000 + '"'})
    assert answer.status_code == 401 and time.monotonic() - began < 2
