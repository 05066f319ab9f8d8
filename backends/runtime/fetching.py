"""Starting the process that downloads (`backends/models/fetch.py`): by the page, or by a job.

It alone gets the token and a way to the network. A job is offline like every process that opens
what was downloaded; where its dataset is to come from the hub it is told the way, and starts this
process for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from backends.models import hub_token
from backends.runtime import frames
from backends.runtime.process import CHECKOUT, child_environment, kill_tree, start_flags

GRACE = 5.0  # seconds that the process gets to end after its stdin was closed
LOOK = 0.2  # seconds between two looks whether it is still wanted
# What the process needs beside a worker's environment: the hub's address and the way to it.
NETWORK = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE",
           "SSL_CERT_DIR")  # fmt: skip
TOLD_OFFLINE = "WERKBANK_HUB_OFFLINE"  # in a job's environment what the user's HF_HUB_OFFLINE says


def way_to_the_hub() -> dict[str, str]:
    """What a job whose dataset is on the hub has in its environment beside a worker's."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("hf_hub_offline") or "0"
    return {**_network(), TOLD_OFFLINE: said}


def environment(temp: Path) -> dict[str, str]:
    """That of the process: a worker's, but online, and with the token."""
    offline = os.environ.get(TOLD_OFFLINE) or way_to_the_hub()[TOLD_OFFLINE]
    more = {**_network(), "HF_HUB_OFFLINE": offline}
    if token := hub_token.read():
        more["HF_TOKEN"] = token
    return child_environment(temp, more)


def _network() -> dict[str, str]:
    names = (key for name in NETWORK for key in (name, name.lower()))
    return {key: os.environ[key] for key in names if key in os.environ}


def fetched(
    asked: dict[str, str], temp: Path, wanted: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Run it here and yield what it says, `{}` where it says nothing for a moment.

    Ends with a "done" or a "failed", without either where it died or is not `wanted` any more.
    Closing the iterator ends the process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "backends.models.fetch"], env=environment(temp), cwd=CHECKOUT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **start_flags(),
    )  # fmt: skip
    assert process.stdin and process.stdout
    said: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(process.stdout, said), daemon=True).start()
    try:
        with contextlib.suppress(OSError):  # it died at once, which the reading tells
            process.stdin.write(frames.encode({"id": 1, **asked}, frames.TO_WORKER_BYTES))
            process.stdin.flush()
        while wanted():
            try:
                line = said.get(timeout=LOOK)
            except queue.Empty:
                yield {}
                continue
            if not line:
                return
            with contextlib.suppress(frames.BrokenFrame):
                yield frames.decode(line)
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()


def _listen(stream: IO[bytes], said: queue.Queue[bytes]) -> None:
    """Its lines, and b"" at their end."""
    with stream:
        while line := stream.readline(frames.TO_PAGE_BYTES):
            said.put(line)
    said.put(b"")
