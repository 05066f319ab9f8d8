"""The server: door, /healthz, /api/gpu, /v1, the page; one per home folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from backends.base import Refused
from backends.models import library
from backends.runtime.process import lock_file
from webui.api import build_api
from webui.arrivals import Arrivals
from webui.bench import Bench
from webui.demo.offer import announce, offer_by_name
from webui.demo.routes import build_share_routes
from webui.door import TRUSTED, Door, keep_token, own_hosts
from webui.downloads import build_downloads
from webui.finetune.routes import build_job_routes
from webui.image.queue_routes import build_queue_routes
from webui.image.routes import build_picture_routes
from webui.models.routes import build_models_routes

PORT, PORTS_TRIED = 7860, 50
SHUTDOWN = 2  # seconds for open streams at Ctrl-C; without a bound an open page blocks it for ever


def serve(
    *,
    tabs: Callable[[], Sequence[Any]],
    host: str = "127.0.0.1",
    port: int | None = None,
    home: Path | None = None,
    browser: bool = True,
    token: str | None = None,
    no_token: bool = False,
    share: str | None = None,
) -> int:
    """Serve until Ctrl-C. Prints `Werkbank is at …` when the page answers. Returns an exit code.

    `share` names a chat model that others may talk to from the start.
    """
    try:
        home = settle_home(home)
        lock = lock_file(home / "server.lock")
        if lock is None:
            return open_first(home, browser) if share is None else cannot_share_twice(home)
        key = None if no_token else token or keep_token(home / "token")
        listener = bind(host, PORT if port is None else port)
        url = address(host, listener.getsockname()[1], key)
        bench = Bench(home)
        offer = None if share is None else offer_by_name(bench, share)
    except (OSError, UnicodeDecodeError, Refused) as error:
        print(cannot_start(error, host), file=sys.stderr)
        return 1
    with lock:
        notices = bench.store.notice, bench.gallery.notice, bench.settings.notice
        for notice in filter(None, notices):
            print(notice, flush=True)
        app = build_server(bench, tabs, own_hosts(host), key)
        told: list[asyncio.Task[None]] = []  # a task that nobody holds may vanish

        def ready() -> None:
            write_private(home / "server.json", json.dumps({"url": url, "pid": os.getpid()}))
            print(f"Werkbank is at {url}", flush=True)
            gc.enable()  # which webui/cli.py turned off for the start
            if browser:
                webbrowser.open(url)
            if offer:
                bench.sharing.begin(offer)
                told.append(asyncio.get_running_loop().create_task(announce(bench.sharing)))

        try:
            run(app, listener, ready)
        finally:
            (home / "server.json").unlink(missing_ok=True)
    return 0


def cannot_share_twice(home: Path) -> int:
    print(
        f"Werkbank runs already and holds {home}. Use Share… on the Chat tab of its page.",
        file=sys.stderr,
    )
    return 1


def cannot_start(error: Exception, host: str) -> str:
    """Why it did not come to a server, in two sentences."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, socket.gaierror) or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this computer. Choose another with --host."
    if isinstance(error, UnicodeDecodeError):
        return "The file token in the home folder is not text. Delete it: a new one is made."
    place = getattr(error, "filename", None) or "the home folder"
    why = getattr(error, "strerror", None) or str(error)
    return (
        f"Werkbank cannot use {place} ({why}). Choose another folder with --home, or mend that one."
    )


def settle_home(home: Path | None) -> Path:
    """The folder of all that is the user's, made where it is missing and told to the children."""
    folder = (home or library.home()).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["WERKBANK_HOME"] = str(folder)
    return folder


def build_server(
    bench: Bench, tabs: Callable[[], Sequence[Any]], hosts: set[str], token: str | None
) -> FastAPI:
    """The whole app, door included. `tabs` is called once Gradio's environment is settled."""
    from webui import app as page_app

    page_app.settle_environment(bench.temp)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await bench.start()
        try:
            yield
        finally:
            await bench.stop()

    server = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    server.add_middleware(Arrivals, answers=bench.answers)
    server.add_middleware(Door, hosts=hosts, token=token)  # the last one stands in front
    server.state.bench = bench
    add_own_routes(server, bench)
    server.include_router(build_api(bench))
    server.include_router(build_downloads(bench))
    server.include_router(build_models_routes(bench))
    server.include_router(build_job_routes(bench))
    server.include_router(build_queue_routes(bench.pictures))
    server.include_router(build_picture_routes(bench.gallery))
    server.include_router(build_share_routes(bench))
    server.add_exception_handler(Exception, unexpected)
    return page_app.mount_page(server, page_app.build_page(bench, tabs()))


def add_own_routes(server: FastAPI, bench: Bench) -> None:
    @server.get("/healthz")
    async def healthz(request: Request) -> dict[str, Any]:
        """`{"status": "ok"}` for anybody, workers, jobs and GPU for whoever has the token."""
        return await bench.health() if request.scope.get(TRUSTED) else {"status": "ok"}

    @server.get("/api/gpu")
    async def gpu(seq: int = 0, panel: bool = False) -> Response:
        """Readings newer than `seq`, who holds memory, what is shared. Polled by the strip."""
        # Made here: FastAPI would walk through every value first, and ten minutes are many.
        return JSONResponse(bench.monitor.answer(seq, panel))

    @server.post("/api/gpu/dismiss")
    async def dismiss(alert: str) -> dict[str, str]:
        """Not to be shown again until its condition went away and came back."""
        bench.monitor.alerts.dismiss(alert)
        return {"status": "ok"}


async def unexpected(request: Request, error: Exception) -> Response:
    """A fault of Werkbank's own, in OpenAI's shape; the traceback goes to the log."""
    message = f"Werkbank itself failed ({type(error).__name__}). Try again, and look at its log."
    problem = {"message": message, "type": "server_error", "param": None, "code": None}
    return JSONResponse({"error": problem}, 500)


def worth_a_line(record: logging.LogRecord) -> bool:
    """Ctrl-C cuts open streams off after `SHUTDOWN` seconds: that is no error and no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not (
        isinstance(error, asyncio.CancelledError) or str(record.msg).startswith("Cancel %s running")
    )


class Announcing(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.ready()


def run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # a token in an address must not reach a log
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN,
    )
    logging.getLogger("uvicorn.error").addFilter(worth_a_line)
    # uvicorn raises both again after its own clean-up; ours comes after that.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        Announcing(config, ready).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket on `port`, or on the next free one. Raises OSError where the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()  # two that start at once may both bind: only one may listen
        except OSError as error:
            listener.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            if sys.platform == "win32" and getattr(error, "winerror", 0) in (10013, 10048):
                continue
            raise
        if candidate != port:
            print(f"Port {port} is in use: taking {candidate}.", flush=True)
        return listener
    raise OSError(f"No free port between {port} and {port + PORTS_TRIED}. Choose one with --port.")


def address(host: str, port: int, token: str | None) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def open_first(home: Path, browser: bool, patience: float = 30.0) -> int:
    """Another Werkbank serves this home: open that one. It may itself be starting just now."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
            url = json.loads((home / "server.json").read_text("utf-8"))["url"]
            plain = url.partition("?")[0]
            httpx.get(plain + "healthz", timeout=2, trust_env=False).raise_for_status()
            print(f"Werkbank runs already. Werkbank is at {url}", flush=True)
            if browser:
                webbrowser.open(url)
            return 0
        time.sleep(0.2)
    print(
        f"Another Werkbank holds {home}, but it does not answer. "
        "End that process, or choose another folder with --home.",
        file=sys.stderr,
    )
    return 1


def write_private(file: Path, text: str) -> None:
    """Write it so that only its owner can read it, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    partial.replace(file)
