"""The strip on top of the page: what the card does now, its last minute, and who lives on it.

The browser asks `/api/gpu` itself (assets/gpu_strip.js), so Gradio's queue never hears of it. That
route answers what `Sampler.since(seq)` gives, and "residents": a list of `resident` objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent.parent / "assets"
TEMPLATE = """
<div class="strip" role="status" aria-live="off" aria-label="Graphics card and memory">
  <span class="note">Reading the machine.</span><span class="cards"></span>
  <span class="chips"></span>
</div>
"""


def resident(label: str, size_bytes: int | None, state: str, **more: Any) -> dict[str, Any]:
    """One chip of the strip, such as "SmolLM2 135M · 0.4 GB · ready", as `/api/gpu` sends it.

    more: `id`, `kind` (model, job, spare), `owner` (its tab), `device`, `pid` where it has one
    """
    return {"label": label, "bytes": size_bytes, "state": state, **more}


def build_gpu_strip() -> gr.HTML:
    """The strip as a component. It needs `/api/gpu` on the page's own server and nothing else."""
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "gpu_strip.css").read_text("utf-8"),
        js_on_load=(ASSETS / "gpu_strip.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id="gpu-strip",
    )
