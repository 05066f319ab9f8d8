"""The demo's door: what is behind it, who gets in, and what a stranger may try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.webui.demo.conftest import PHRASE
from tests.webui.test_server import _routes
from webui.bench import Bench
from webui.demo import door
from webui.demo.app import build_server
from webui.demo.door import wanted
from webui.demo.quota import Visitors
from webui.demo.state import Demo, Offer

HOST = "abc.gradio.live"
OWN = ("/v1/models", "/v1/chat/completions", "/api/gpu", "/api/share", "/api/share/stop",
       "/healthz", "/openapi.json", "/docs", "/enter/", "/gradio_api/upload",
       "/gradio_api/file=/etc/passwd", "/assets/../config", "/assets/..%2fconfig",
       "/static/../../config", "/gradio_api//queue/join")  # fmt: skip


@pytest.fixture
def demo(offer: Callable[..., Offer]) -> Demo:
    made = offer(visitors=3)
    return Demo(made, Visitors(made.terms), hosts={HOST}, scheme="https", proxied=True)


@pytest.fixture
def client(bench: Bench, demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(door, "WRONG_SECONDS", 0.05)

    async def build() -> tuple[Any, Any]:  # in a loop, as it is; without one Gradio leaves one open
        return build_server(bench, demo)

    server, page = asyncio.run(build())
    yield TestClient(
        server, base_url=f"https://{HOST}", follow_redirects=False, client=("127.0.0.1", 5)
    )
    page._queue.close()


def enter(client: TestClient, phrase: str = PHRASE, **headers: str) -> int:
    return client.post("/enter", data={"passphrase": phrase}, headers=headers).status_code


def all_routes(client: TestClient) -> set[tuple[str, str]]:
    found = set(_routes(client.app.routes))  # type: ignore[attr-defined]
    assert len(found) > 50 and ("POST", "/gradio_api/upload") in found
    return found | {(method, path) for path in OWN for method in ("GET", "POST")}


def test_without_the_passphrase_nothing_answers(client: TestClient) -> None:
    opened = [
        (method, path)
        for method, path in all_routes(client)
        if client.request(method, path).status_code
        not in ((401,) if wanted(method, path) else (404,))
    ]
    assert opened == []
    page = client.get("/")
    assert page.status_code == 401 and "Passphrase" in page.text and "echo" not in page.text.lower()


def test_with_it_only_what_the_page_needs_does(client: TestClient) -> None:
    assert enter(client) == 303
    needed = {(m, p) for m, p in all_routes(client) if wanted(m, p)}
    assert {p for _, p in needed} == {
        "/", "/theme.css", "/favicon.ico", "/assets/x", "/static/x", "/gradio_api/queue/data",
        "/gradio_api/queue/join",
    }  # fmt: skip
    opened = [
        (method, path)
        for method, path in all_routes(client) - needed
        if client.request(method, path).status_code != 404
    ]
    assert opened == []
    assert client.get("/").status_code == 200 and client.get("/theme.css").status_code == 200


def test_the_cookie_is_the_key_and_cannot_be_read_by_a_script(client: TestClient) -> None:
    answer = client.post("/enter", data={"passphrase": "RIVER candle tiger lemon boat"})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" in cookie
    alive = client.get("/alive").json()
    assert (alive["left"], alive["messages"]) == (20, 20) and 7190 < alive["seconds"] <= 7200
    client.cookies.clear()
    assert client.get("/alive").status_code == 401
    client.cookies.set(cookie.partition("=")[0], "guessed")
    assert client.get("/").status_code == 401


def test_a_wrong_passphrase_is_answered_late_and_locks_its_address(
    client: TestClient, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "WRONG_SECONDS", 0.3)
    here = {"X-Forwarded-For": "1.1.1.1, 203.0.113.5"}
    started = time.monotonic()
    assert enter(client, "wrong", **here) == 403 and time.monotonic() - started >= 0.3
    assert [enter(client, w, **here) for w in ("a", "", "ü" * 300, "🛶")] == [403] * 4
    locked = client.post("/enter", data={"passphrase": PHRASE}, headers=here)
    assert locked.status_code == 429 and 50 <= int(locked.headers["retry-after"]) <= 60
    assert "Try again in" in locked.text and not demo.visitors.known
    # What the caller puts before the share server's own word changes nothing.
    assert enter(client, PHRASE, **{"X-Forwarded-For": "9.9.9.9, 203.0.113.5"}) == 429
    assert enter(client, PHRASE, **{"X-Forwarded-For": "203.0.113.6"}) == 303


def test_a_foreign_host_or_origin_is_refused(client: TestClient) -> None:
    assert enter(client) == 303
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    for origin in ("https://evil.example", "null", ""):
        answer = client.post("/gradio_api/queue/join", json={}, headers={"Origin": origin})
        assert answer.status_code == 403
        assert enter(client, Origin=origin) == 403


def test_forwarded_headers_of_a_visitor_are_not_believed(client: TestClient) -> None:
    assert enter(client) == 303
    for header in ("X-Forwarded-Host", "X-Gradio-Server"):
        page = client.get("/", headers={header: "evil.example"})
        assert "evil.example" not in page.text and f"https://{HOST}" in page.text
    policy = client.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "http" not in policy


def test_a_large_body_is_refused_before_gradio_reads_it(client: TestClient) -> None:
    assert enter(client) == 303
    large = {"data": ["x" * door.LARGEST_BODY], "fn_index": 0, "session_hash": "s"}
    assert client.post("/gradio_api/queue/join", json=large).status_code == 413
    assert client.post("/enter", data={"passphrase": "x" * door.LARGEST_BODY}).status_code == 403


def test_a_guest_does_not_hear_another_one_s_page(client: TestClient, demo: Demo) -> None:
    joining = {"data": [], "fn_index": 99, "session_hash": "annspage1"}
    assert enter(client) == 303
    assert client.post("/gradio_api/queue/join", json=joining).status_code == 403  # no such call
    joining["fn_index"] = next(n for n, count in demo.calls.inputs.items() if not count)
    assert client.post("/gradio_api/queue/join", json=joining).status_code == 200
    client.cookies.clear()
    assert enter(client) == 303
    heard = client.get("/gradio_api/queue/data", params={"session_hash": "annspage1"})
    assert heard.status_code == 403 and "no call of your page" in heard.text
    assert client.post("/gradio_api/queue/join", json=joining).status_code == 403
    assert client.get("/gradio_api/queue/data").status_code == 403


def test_a_full_demo_says_so(client: TestClient) -> None:
    for _ in range(3):
        assert enter(client) == 303
        client.cookies.clear()
    answer = client.post("/enter", data={"passphrase": PHRASE})
    assert answer.status_code == 503 and "full" in answer.text


def test_after_the_end_everything_is_gone(client: TestClient, demo: Demo) -> None:
    assert enter(client) == 303
    demo.ended = "over"
    for path in ("/", "/alive", "/gradio_api/queue/data", "/assets/x", "/nowhere"):
        assert client.get(path).status_code == 410
    assert "This demo has ended" in client.get("/").text
    assert enter(client) == 410


def test_a_cookie_of_backslashes_takes_no_time(client: TestClient) -> None:
    hostile = 'a="' + "\\" * 60_000 + '"'
    began = time.monotonic()
    assert client.get("/", headers={"cookie": hostile}).status_code == 401
    assert enter(client) == 303  # a guest has not more of the computer's time than a stranger
    own = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert client.get("/", headers={"cookie": f"{own}; {hostile}"}).status_code == 200
    body = {"fn_index": 0, "data": [""], "session_hash": "s"}
    both = {"cookie": f"{own}; {hostile}"}
    assert client.post("/gradio_api/queue/join", json=body, headers=both).status_code == 200
    assert time.monotonic() - began < 3


def test_a_form_of_many_fields_is_a_wrong_passphrase(client: TestClient) -> None:
    assert client.post("/enter", content="a=1&" * 50).status_code == 403
