"""A real Werkbank in a process and a home of its own, as a user would start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import CannotRun, end, free_port, seconds_until, wait_for

CHECKOUT = Path(__file__).resolve().parents[1]
TOKEN = "benchmark"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
# The page itself and not a placeholder: Gradio's front end with its configuration in it.
PAGE = {"/": b"window.gradio_config", "/config": b'"components"'}
SERVE = ("webui.cli", "serve", "--no-browser")


@dataclass(frozen=True)
class Served:
    """A running server. `started` is what it took until page and /config answered, in seconds."""

    process: subprocess.Popen[bytes]
    port: int
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        return f"{self.base}/?token={TOKEN}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.base, headers=HEADERS, timeout=180, trust_env=False)

    def health(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get("/healthz").json())

    def worker(self, model: str) -> dict[str, Any]:
        """What /healthz says of the resident that holds `model`, a reference."""
        for worker in self.health()["workers"]:
            if worker["model"] == model and worker["pid"]:
                return dict(worker)
        raise CannotRun(f"No worker holds {model}.")

    def spare_ready(self, seconds: float = 60.0) -> bool:
        """Wait for the warm spare. False where this machine keeps none, RAM being short."""
        try:
            wait_for(lambda: self.health()["spare"] == "ready", seconds, "The warm spare", 0.5)
        except CannotRun:
            return False
        return True

    def settle(self) -> None:
        """Wait until nothing is done in the background: the spare imports after every load."""
        self.spare_ready(40)
        time.sleep(1)


def command(home: Path, port: int, module: Sequence[str] = SERVE) -> list[str]:
    where = ["--home", str(home), "--port", str(port), "--token", TOKEN]
    return [sys.executable, "-m", *module, *where]


def environment() -> dict[str, str]:
    """Ours, for every process that is measured against another: no reports, no proxy."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return os.environ | quiet | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def started(words: Sequence[str], log: Path, port: int) -> Iterator[Served]:
    """Start a server and wait for its page. What it prints goes to `log`."""
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(
            words, cwd=CHECKOUT, env=environment(), stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield Served(process, port, seconds_until(process, began, port, PAGE, HEADERS))
    finally:
        end(process)


@contextmanager
def serving(home: Path, module: Sequence[str] = SERVE) -> Iterator[Served]:
    """A server on a free port."""
    port = free_port()
    with started(command(home, port, module), home.with_suffix(".log"), port) as served:
        yield served
