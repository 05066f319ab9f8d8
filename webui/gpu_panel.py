"""The strip on top of the page, what the card does now and who lives on it, and the full panel.

The browser asks `/api/gpu` itself (assets/gpu_strip.js), so Gradio's queue never hears of it. That
route answers what `Sampler.since(seq)` gives, "residents", a list of `resident` objects, and
"alerts". The panel (assets/gpu_panel.js) lives on the same poll and costs nothing while closed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent.parent / "assets"
TEMPLATE = """
<div class="strip" role="status" aria-live="off" aria-label="Graphics card and memory">
  <span class="note">Reading the machine.</span><span class="cards"></span>
  <span class="alert" role="alert" hidden></span><span class="chips"></span>
  <button class="more" type="button" aria-expanded="false" aria-label="GPU panel"
    title="Everything about the card, and the last ten minutes"></button>
</div>
"""
PANEL = """
<section class="gpu-panel" popover="manual" role="dialog" aria-label="GPU panel" tabindex="-1">
  <header><h2>Card and memory</h2><button class="close" type="button" aria-label="Close">×</button>
  </header>
  <p class="message"></p><ul class="alerts"></ul>
  <div class="grid"><div class="sections"></div>
  <div class="runs" hidden><h3>What ran</h3><table><tbody class="rows"></tbody></table></div></div>
</section>
"""


def resident(label: str, size_bytes: int | None, state: str, **more: Any) -> dict[str, Any]:
    """One chip of the strip, such as "SmolLM2 135M · 0.4 GB · ready", as `/api/gpu` sends it.

    more: `id`, `kind` (model, job, spare), `owner` (its tab), `device`, `pid` where it has one
    """
    return {"label": label, "bytes": size_bytes, "state": state, **more}


def build_gpu_strip() -> gr.HTML:
    """The strip as a component. It needs `/api/gpu` on the page's own server and nothing else."""
    return _component(TEMPLATE, "gpu_strip", "gpu-strip")


def build_gpu_panel() -> gr.HTML:
    """What a click on the strip opens. It needs the strip on the same page and nothing else."""
    return _component(PANEL, "gpu_panel", "gpu-panel")


def _component(template: str, asset: str, elem_id: str) -> gr.HTML:
    return gr.HTML(
        html_template=template,
        css_template=(ASSETS / f"{asset}.css").read_text("utf-8"),
        js_on_load=(ASSETS / f"{asset}.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )
