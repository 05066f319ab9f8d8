"""A hub on loopback that speaks as the real one does, and fails as the test says.

`FakeHub()` is a context: two servers, one for the API and one in the part of the content server,
on two ports, so that a redirect leads to another host. What was asked is in `seen`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_goodTokenOfATest1234"


@dataclass
class Model:
    """`commits`: files by commit, newest last. `large`: names that are stored by sha256."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    tags: tuple[str, ...] = ("safetensors", "license:apache-2.0")
    pipeline: str = "text-generation"
    downloads: int = 10


@dataclass(frozen=True)
class Asked:
    server: str  # hub or cdn
    method: str
    path: str
    token: str
    range: str


Fault = Callable[["Handler", str], bool]  # True: it has answered


class FakeHub:
    def __init__(self) -> None:
        self.models: dict[str, Model] = {}  # a dataset by its name with datasets/ before it
        self.seen: list[Asked] = []
        self.faults: list[Fault] = []  # each is asked first, in order, hub and content server alike
        self.ranges = True
        self.tell_etag: Callable[[str], str] = lambda etag: etag
        self.flip = False  # the content server turns one bit
        self.slow = 0.0  # seconds for each 64 KiB of content
        self._servers = [self._serve("hub"), self._serve("cdn")]

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Model:
        commit = hashlib.sha1(name.encode()).hexdigest()
        model = Model({commit: dict(files)}, {"main": commit}, **more)
        self.models[name] = model
        return model

    def add_dataset(self, name: str, files: dict[str, bytes], **more: Any) -> Model:
        return self.add(f"datasets/{name}", files, **more)

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """A new version on main."""
        model = self.models[name]
        commit = hashlib.sha1(repr((name, len(model.commits))).encode()).hexdigest()
        model.commits[commit] = dict(files)
        model.refs["main"] = commit
        return commit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def of(self, server: str, method: str = "GET") -> list[Asked]:
        return [a for a in self.seen if a.server == server and a.method == method]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, part: str) -> ThreadingHTTPServer:
        kind = type("Bound", (Handler,), {"hub": self, "part": part})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server


@contextmanager
def reached_by(patch: pytest.MonkeyPatch, home: Path, folder: Path) -> Iterator[FakeHub]:
    """A hub that this process and its children take for the real one; its cache is in `folder`."""
    patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    patch.setenv("WERKBANK_HOME", str(home))
    patch.setenv("WERKBANK_CACHE", str(folder / "cache"))
    patch.setenv("WERKBANK_TEST_FETCH_PACE", "5,0.01,0.05,3")
    patch.delenv("HF_HUB_OFFLINE", raising=False)
    with FakeHub() as server:
        patch.setenv("HF_ENDPOINT", server.url)
        yield server


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    part: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def say(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(
            Asked(self.part, self.command, path, self.token, self.headers.get("Range", ""))
        )
        try:
            if any(fault(self, path) for fault in list(self.hub.faults)):
                return
            self._cdn(path) if self.part == "cdn" else self._hub(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _hub(self, path: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.token and self.token != TOKEN:
            return self.say(401, b"", X_Error_Message="Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self.say(200, {"name": "tester"}) if self.token else self.say(401)
        if path == "/api/models":
            return self.say(200, self._search(query))
        if path.startswith(("/api/models/", "/api/datasets/")):
            name, _, revision = path.removeprefix("/api/").partition("/revision/")
            return self._page(name.removeprefix("models/"), revision)
        name, _, rest = path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._resolve(name, revision, file)

    def _search(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        words, task = query.get("search", [""])[0], query.get("pipeline_tag", [""])[0]
        found = [
            (name, m)
            for name, m in sorted(self.hub.models.items(), key=lambda item: -item[1].downloads)
            if words.lower() in name.lower()
            and task in ("", m.pipeline)
            and not name.startswith("datasets/")
        ]
        return [
            {
                "id": name,
                "downloads": m.downloads,
                "likes": 3,
                "gated": "auto" if m.gated else False,
                "tags": list(m.tags),
                "pipeline_tag": m.pipeline,
                "lastModified": "2026-01-02T03:04:05Z",
                **(
                    {"safetensors": {"parameters": {"BF16": 1000}, "total": 1000}}
                    if "safetensors" in m.tags
                    else {"gguf": {"total": 8000, "architecture": "llama"}}
                ),
            }
            for name, m in found
        ]

    def _allowed(self, name: str, revision: str) -> tuple[Model, str] | None:
        model = self.hub.models.get(name)
        if model is None or (model.private and not self.token):
            self.say(401 if not self.token else 404, b"", X_Error_Code="RepoNotFound")
            return None
        commit = model.refs.get(revision, revision)
        if commit not in model.commits:
            self.say(404, b"", X_Error_Code="RevisionNotFound")
            return None
        return model, commit

    def _page(self, name: str, revision: str) -> None:
        if found := self._allowed(name, revision or "main"):
            model, commit = found
            siblings = [entry(path, data) for path, data in model.commits[commit].items()]
            self.say(200, {"id": name.removeprefix("datasets/"), "sha": commit,
                           "gated": "auto" if model.gated else False,
                           "tags": list(model.tags), "pipeline_tag": model.pipeline,
                           "siblings": siblings})  # fmt: skip

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._allowed(name, revision)
        if not found:
            return
        model, commit = found
        if model.gated:
            return self.say(403 if self.token else 401, b"", X_Error_Code="GatedRepo")
        if file not in model.commits[commit]:
            return self.say(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = model.commits[commit][file]
        etag = self.hub.tell_etag(etag_of(file, data))
        if is_large(file):
            return self.say(
                302, b"", X_Repo_Commit=commit, X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=str(len(data)),
                Location=f"{self.hub.cdn}/{name}/resolve/{commit}/{file}",
            )  # fmt: skip
        self._content(data, ETag=f'"{etag}"', X_Repo_Commit=commit)

    def _cdn(self, path: str) -> None:
        data = self.stored(path)
        if self.hub.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._content(data)

    def stored(self, path: str) -> bytes:
        """What the content server has at a path."""
        name, _, rest = path[1:].partition("/resolve/")
        commit, _, file = rest.partition("/")
        return self.hub.models[name].commits[commit][file]

    def _content(self, data: bytes, **headers: str) -> None:
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and self.hub.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(start, len(data), 65536):
            self.wfile.write(data[at : at + 65536])
            if self.hub.slow:
                time.sleep(self.hub.slow)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf", ".bin", ".parquet", ".large.jsonl"))


def etag_of(path: str, data: bytes) -> str:
    if is_large(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    large = {"lfs": {"sha256": etag_of(path, data), "size": len(data)}} if is_large(path) else {}
    return {"rfilename": path, "size": len(data), "blobId": etag_of("", data), **large}


# Faults


def times(count: int, fault: Fault) -> Fault:
    """The first `count` times that it applies; after that nothing happens."""
    left = [count]

    def once(handler: Handler, path: str) -> bool:
        if not left[0]:
            return False
        left[0] -= 1  # before it answers, which may take its time
        answered = fault(handler, path)
        left[0] += not answered
        return answered

    return once


def status(code: int, part: str = "cdn", **headers: str) -> Fault:
    """Answers with a status and nothing else."""

    def fault(handler: Handler, path: str) -> bool:
        if handler.part == part:
            handler.say(code, b"", **headers)
        return handler.part == part

    return fault


def cut(share: float, then: float = 0.0) -> Fault:
    """The content server sends a share of what is left, waits `then` seconds and hangs up."""

    def fault(handler: Handler, path: str) -> bool:
        if handler.part != "cdn":
            return False
        data = handler.stored(path)
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + int((len(data) - start) * share)])
        handler.wfile.flush()
        time.sleep(then)
        handler.close_connection = True
        return True

    return fault
