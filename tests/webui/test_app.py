"""Gradio's knobs, the private ones too: this fails when Gradio moves them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.served import CHECKOUT

CODE = """
import pathlib, sys
from webui import app
app.settle_environment(pathlib.Path(sys.argv[1]))
import gradio as gr
with gr.Blocks(analytics_enabled=False) as page:
    gr.Textbox()
fresh = vars(page._queue) | {"max_threads": page.max_threads,
                             "state_session_capacity": page.state_session_capacity}
for knob in ("max_thread_count", "sleep_when_free", "progress_update_sleep_when_free"):
    assert hasattr(page._queue, knob), knob
app.tune(page)
assert page._queue.sleep_when_free == app.QUEUE_POLL
assert page._queue.max_thread_count == app.OPEN_EVENTS
assert not page.api_open
from gradio import queueing
source = pathlib.Path(queueing.__file__).read_text()
for knob in ("self.sleep_when_free", "self.max_thread_count"):
    assert source.count(knob) >= 2, f"{knob} is no longer read"
bad = [m for m in ("torch", "transformers", "xllamacpp", "diffusers") if m in sys.modules]
assert not bad, bad
print("fine")
"""


def test_the_private_knobs_are_where_they_were(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert out.stdout.strip().endswith("fine"), out.stderr
