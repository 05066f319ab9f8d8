"""The whole server, through its own door."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.routing import BaseRoute, Mount

from tests.served import CHECKOUT, PORT, Served, serving
from webui.server import bind


def _routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        path = prefix + (getattr(route, "path", "") or "")
        if inner := getattr(route, "original_router", None):
            yield from _routes(inner.routes, prefix)
            continue
        if isinstance(route, Mount) and route.routes:
            yield from _routes(route.routes, path)
        elif methods := getattr(route, "methods", None):
            yield from ((m, re.sub(r"\{[^}]*\}", "x", path)) for m in methods)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every (method, path) of the app, Gradio's included, read from the app itself."""
    code = (
        "import json, pathlib, sys; from webui.server import build_server; from tabs import TABS;"
        "from webui.bench import Bench; from tests.webui.test_server import _routes;"
        "app = build_server(Bench(pathlib.Path(sys.argv[1])), lambda: TABS, {'localhost'}, 't');"
        "print(json.dumps(list(_routes(app.routes))))"
    )
    home = tmp_path_factory.mktemp("routes")
    out = subprocess.run(
        [sys.executable, "-c", code, str(home)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    found = [(m, p) for m, p in json.loads(out.stdout.splitlines()[-1])]
    assert len(found) > 30 and ("POST", "/v1/chat/completions") in found
    assert any(p.startswith("/gradio_api/") for _, p in found)
    return found


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_every_route_is_behind_the_door(
    server: Served, routes: list[tuple[str, str]], headers: dict[str, str], status: int
) -> None:
    key = {} if status == 401 else {"Authorization": f"Bearer {server.token}"}
    open_to_all = {("GET", "/healthz")} if status == 401 else set()
    with httpx.Client(base_url=server.base, trust_env=False, timeout=10) as client:
        passed = [
            (method, path)
            for method, path in routes
            if (method, path) not in open_to_all
            and client.request(method, path, headers={**key, **headers}).status_code != status
        ]
    assert passed == []


def test_healthz_says_ok_to_strangers_and_more_to_the_owner(server: Served) -> None:
    assert httpx.get(f"{server.base}/healthz", trust_env=False).json() == {"status": "ok"}
    health = server.health()
    assert {"status", "workers", "jobs", "gpu"} <= set(health) and health["status"] == "ok"
    assert isinstance(health["workers"], list) and isinstance(health["jobs"], list)


def test_the_openapi_description_is_not_served(server: Served) -> None:
    with server.client() as client:
        for path in ("/openapi.json", "/docs", "/redoc"):
            assert client.get(path).status_code == 404


def test_api_gpu_answers_readings_since_a_number(server: Served) -> None:
    with server.client() as client:
        client.get("/api/gpu", params={"seq": 0})
        time.sleep(2.2)
        first = client.get("/api/gpu", params={"seq": 0}).json()
        assert first["readings"] and first["seq"] >= 1 and isinstance(first["residents"], list)
        again = client.get("/api/gpu", params={"seq": first["seq"]}).json()
        assert len(again["readings"]) <= 1
        assert "activity" not in again
        opened = client.get("/api/gpu", params={"seq": -600, "panel": 1}).json()
        # Other tests have loaded and asked on this server.
        assert all({"id", "kind", "label", "device"} <= set(run) for run in opened["activity"])
        assert opened["now"] >= opened["readings"][-1]["at"]
        assert client.post("/api/gpu/dismiss", params={"alert": "none"}).status_code == 200


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_page_never_maps_libtorch(server: Served) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps and "llama" not in maps
    # What a load would be: the memory map of a worker that has it does show the library.
    assert psutil.Process(server.process.pid).memory_info().rss < 350e6


def test_no_process_of_the_page_has_backends_on_its_command_line(server: Served) -> None:
    assert not any("backends" in word for word in psutil.Process(server.process.pid).cmdline())


def test_the_command_line_of_a_worker_names_it(server: Served) -> None:
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while not children and time.monotonic() < deadline:
        children = psutil.Process(server.process.pid).children()
        time.sleep(0.2)
    assert children and all("backends.worker" in c.cmdline() for c in children)


def test_a_second_instance_opens_the_first_and_exits_0(server: Served) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "webui.cli", "serve", "--no-browser", "--home", str(server.home)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert second.returncode == 0 and f"Werkbank is at {server.url}" in second.stdout


def test_a_used_port_is_passed_over_and_a_killed_page_can_be_started_again(tmp_path: Path) -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", PORT))
        taken.listen()
        with serving(tmp_path / "home", spare=False) as first:
            assert f":{PORT}/" not in first.url
            token = first.token
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
        with serving(tmp_path / "home", spare=False) as second:  # the lock of a killed page is free
            assert second.token == token
            assert second.health()["status"] == "ok"
            started = time.monotonic()
            second.process.send_signal(signal.SIGINT)
            assert second.process.wait(10) == 0 and time.monotonic() - started < 5


def test_a_port_that_another_has_bound_but_not_opened_yet_is_passed_over() -> None:
    first = bind("127.0.0.1", PORT + 10)
    port = first.getsockname()[1]
    with first, bind("127.0.0.1", port) as second:
        assert second.getsockname()[1] > port
        second.listen(2048)  # as uvicorn does


def test_ctrl_c_cuts_an_open_stream_off_and_prints_no_traceback(tmp_path: Path) -> None:
    message = {"role": "user", "content": "x"}
    body = {"model": "echo", "messages": [message], "words": 9999, "words_per_second": 20}
    with (
        serving(tmp_path / "home", spare=False) as served,
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer,
    ):
        lines = answer.iter_lines()  # dropped, it would hang up
        assert next(lines)
        started = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0 and time.monotonic() - started < 8
        printed = served.log.read_text("utf-8")
    assert "Traceback" not in printed and "ERROR" not in printed


def test_a_token_comes_by_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKBANK_TOKEN", "unseen-by-ps")
    with serving(tmp_path / "home", spare=False) as served:
        assert served.token == "unseen-by-ps" and served.health()["gate"]
        assert "unseen" not in " ".join(psutil.Process(served.process.pid).cmdline())


def test_secrets_are_readable_by_their_owner_alone(server: Served) -> None:
    if os.name == "posix":
        for name in ("token", "server.json"):
            assert (server.home / name).stat().st_mode & 0o777 == 0o600
        assert server.home.stat().st_mode & 0o077 == 0


def test_the_token_is_in_no_log(server: Served) -> None:
    with server.client() as client:
        client.get("/", params={"token": server.token})
        client.get("/nowhere", params={"token": server.token})
    printed = server.log.read_text("utf-8").replace(server.url, "")
    assert server.token not in printed
    for log in (server.home / "logs").glob("*"):
        assert server.token not in log.read_text("utf-8")


def test_a_folder_named_tmp_in_the_home_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    (home / "tmp" / "thesis.txt").write_text("mine")
    with serving(home, spare=False) as served:
        assert served.health()["status"] == "ok"
    assert (home / "tmp" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "trouble", ["home is a file", "token is a folder", "host is not ours", "no such model"]
)
def test_what_cannot_start_says_why_in_two_sentences(tmp_path: Path, trouble: str) -> None:
    home, more = tmp_path / "home", ["--port", str(PORT + 20)]
    if trouble == "home is a file":
        home.write_text("x")
    elif trouble == "token is a folder":
        (home / "token").mkdir(parents=True)
    elif trouble == "no such model":
        more += ["--share", "chat", "--model", "no-such-model"]
    else:
        more += ["--host", "192.0.2.1"]
    done = subprocess.run(
        [sys.executable, "-m", "webui.cli", "serve", "--no-browser", "--home", str(home), *more],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().count(". ") >= 1
