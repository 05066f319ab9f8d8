"""How long a model takes from the request to its first token, the warm spare being ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.measure import Bar, CannotRun, Plan, Row, spread
from benchmarks.server import CHECKOUT, Served, environment, serving
from benchmarks.starter import GGUF, SAFETENSORS, listed

GGUF_LOAD = Bar("load with the warm spare: starter GGUF", 1.5, " s")
COPY_LOAD = Bar("load with the warm spare: its safetensors copy", 3.0, " s")
BARS = (GGUF_LOAD, COPY_LOAD)
MAKE = """
import sys
from backends.base import ModelRef
from backends.models import library
library.prepare(ModelRef.parse(sys.argv[1]))
"""


def measure(plan: Plan) -> Iterator[Row]:
    """Each time in a new server. That the spare is ready is what /healthz says of it."""
    bars = {GGUF: GGUF_LOAD, SAFETENSORS: COPY_LOAD}
    for name in bars:
        make_copy(name)  # and the file is in the file cache afterwards
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in bars}
    for i in range(plan.loads):
        with serving(plan.home(f"load-{i}")) as served:
            for name in bars:
                times[name].append(load(served, name))
    for name, bar in bars.items():
        whole, inside = zip(*times[name], strict=True)
        yield bar.row(
            sorted(whole)[len(whole) // 2],
            f"request to answer of one token {spread(whole, ' s')}; of it the load itself "
            f"(load_seconds of /healthz) {spread(inside, ' s')}; {len(whole)} servers",
            request_seconds=whole, load_seconds=inside,
        )  # fmt: skip


def load(served: Served, name: str) -> tuple[float, float]:
    """Seconds of a /v1 request for one token of a model that is not loaded, and of its load."""
    if not served.spare_ready():
        raise CannotRun("This machine keeps no warm spare: that takes 4 GB of free RAM.")
    time.sleep(1)
    body = {
        "model": name,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    with served.client() as client:
        client.get("/healthz")  # the connection is there
        began = time.monotonic()
        client.post("/v1/chat/completions", json=body).raise_for_status()
        seconds = time.monotonic() - began
    return seconds, float(served.worker(str(listed(name).ref))["load_seconds"])


def make_copy(name: str) -> None:
    """In a process of its own, since it imports transformers. Does nothing the second time."""
    words = [sys.executable, "-c", MAKE, str(listed(name).ref)]
    made = subprocess.run(
        words, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CannotRun(f"The model {name} could not be made ready: {last}")
