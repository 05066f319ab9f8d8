"""A real Werkbank in a process of its own, for tests that come through the front door."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil

CHECKOUT = Path(__file__).resolve().parents[1]
START_SECONDS = 60
# Where a server looks for a free port. Each worker of pytest-xdist has a stretch of its own.
PORT = 7900 + 30 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


# `python -m webui.cli`, but the machine never has the free RAM that a warm spare is kept for.
WITHOUT_SPARE = (
    "import sys; from backends.runtime import spare; spare.SPARE_RAM_BYTES = 2**60; "
    "from webui.cli import main; sys.exit(main())"
)


def find_chromium() -> str | None:
    named = os.environ.get("WERKBANK_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Served:
    """A running server: `url` with the token, `base` without, `log` what it printed."""

    process: subprocess.Popen[str]
    url: str
    home: Path
    log: Path

    @property
    def base(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.url).query)["token"][0]

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(
            base_url=self.base, headers=headers, timeout=60, trust_env=False, **options
        )

    def health(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get("/healthz").json())

    def worker(self, model: str) -> psutil.Process:
        """The process that holds a model, named by reference."""
        for worker in self.health()["workers"]:
            if worker["model"] == model and worker["pid"]:
                return psutil.Process(worker["pid"])
        raise AssertionError(f"no worker holds {model}: {json.dumps(self.health()['workers'])}")


@contextmanager
def serving(home: Path, *arguments: str, stop: bool = True, spare: bool = True) -> Iterator[Served]:
    """Start one on a free port; its output goes to a file beside its home.

    A spare imports PyTorch, seconds of work for nothing where no test of the server loads with it.
    """
    log = home.parent / f"{home.name}.log"
    program = ("-m", "webui.cli") if spare else ("-c", WITHOUT_SPARE)
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, *program, "serve", "--no-browser", "--home", str(home),
             "--port", str(PORT), *arguments],
            cwd=CHECKOUT, stdout=out, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        yield Served(process, wait_for_link(process, log), home, log)
    finally:
        if stop and process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def wait_for_link(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text("utf-8").splitlines():
            if "Werkbank is at " in line:
                return line.partition("Werkbank is at ")[2].strip()
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.05)
    raise AssertionError(f"no link in {START_SECONDS} s: {log.read_text('utf-8')}")
