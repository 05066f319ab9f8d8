"""The page: the GPU strip on top, a tab per task. Gradio's knobs live here, private ones too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from fastapi import FastAPI
from PIL import Image

from webui.bench import Bench
from webui.demo.panel import build_banner
from webui.gpu_panel import build_gpu_panel, build_gpu_strip
from webui.opening import Opening
from webui.settings_panel import build_settings

ASSETS = Path(__file__).resolve().parent.parent / "assets"
QUEUE_POLL = 0.05  # seconds; Gradio's own 1 ms costs 3 to 4 % of a core while nothing happens
PROGRESS_POLL = 0.1  # seconds
OPEN_EVENTS = 256  # handlers only watch, the gate says who runs; forty slots would hide waiters
SESSIONS = 200  # kept in memory, at about 135 kB each
UPLOAD = "2gb"
MOST_PIXELS = 40_000_000  # of a picture, 160 MB as RGBA
BRAND = '<div id="brand"><span aria-hidden="true">⚒</span> Werkbank</div>'


class Tab(Protocol):
    """A module in `tabs/`: `TITLE` is what the user reads, `build` places the components."""

    TITLE: str

    def build(self, bench: Bench) -> None: ...


def settle_environment(temp: Path) -> None:
    """What Gradio reads from the environment. Call before the first `gr.Blocks`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temp / "gradio")
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # else a pandas summary after every event
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Gradio decodes the picture of an editor in this process: twice this many pixels are refused.
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS


def build_page(bench: Bench, tabs: Sequence[Tab]) -> gr.Blocks:
    with gr.Blocks(
        title="Werkbank", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)
    ) as page:
        page.opening = opening = Opening()
        with gr.Row(elem_id="top"):
            gr.HTML(BRAND)
            build_gpu_strip()
            build_gpu_panel()
            build_settings(bench)
        build_banner()
        with gr.Tabs(elem_id="tabs"):
            for tab in tabs:
                with gr.Tab(tab.TITLE, elem_id=f"tab-{tab.__name__.rpartition('.')[2]}"):  # type: ignore[attr-defined]
                    tab.build(bench)
        opening.wire(page)
        build_nudge()
    tune(page)
    return page


def build_nudge() -> None:
    """One more event, for assets/stream_guard.js. Call it in the page's first `with`: at the end of
    every one Gradio makes its whole app anew."""
    nudge = gr.Button("Listen", elem_id="nudge", visible="hidden")
    nudge.click(lambda: None, show_progress="hidden", api_visibility="private")


def tune(page: gr.Blocks) -> None:
    """Gradio's queue: wide, quiet, and closed to calls from outside.

    `sleep_when_free` and `max_thread_count` are private; a test fails when Gradio moves them.
    """
    page.queue(api_open=False, default_concurrency_limit=None)
    page.max_threads = OPEN_EVENTS
    page.state_session_capacity = SESSIONS
    page._queue.max_thread_count = OPEN_EVENTS
    page._queue.sleep_when_free = QUEUE_POLL
    page._queue.progress_update_sleep_when_free = PROGRESS_POLL


def theme() -> gr.themes.Base:
    """Dense and calm; system fonts, so nothing is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_sm,
        text_size=gr.themes.sizes.text_sm,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def mount_page(app: FastAPI, page: gr.Blocks) -> FastAPI:
    """Put the page on the server's own app, under "/"."""
    theme_first = f"<script>{(ASSETS / 'theme.js').read_text('utf-8')}</script>"
    return mount(app, page, "page.js", "style.css", max_file_size=UPLOAD, head=theme_first)


def mount(
    app: FastAPI, page: gr.Blocks, script: str, style: str, head: str = "", **more: Any
) -> FastAPI:
    """`page` under "/", with files of assets/; nothing of Gradio's that nobody asked for."""
    guard = (ASSETS / "stream_guard.js").read_text("utf-8")
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        favicon_path=str(ASSETS / "logo.svg"),
        theme=theme(),
        js=(ASSETS / script).read_text("utf-8"),
        css_paths=[ASSETS / style],
        head=f"<script>{guard}</script>{head}",
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        **more,
    )
    return mounted
