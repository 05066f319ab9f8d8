"""What the list of models polls: the state of every open download, and a stamp of what else counts.

The browser asks while the Models tab can be seen (assets/models.js), so that Gradio's queue never
hears of a download that goes on.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from webui.bench import Bench
from webui.models.entries import coming_now
from webui.models.view import download_state


def build_models_routes(bench: Bench) -> APIRouter:
    routes = APIRouter()

    @routes.get("/api/models")
    async def models() -> dict[str, Any]:
        """`states`: the cell of each download by its model's name. Where `stamp` differs from the
        last one, the list is to be drawn again."""
        listed = [d for d in bench.downloads.listed() if d.what == "model"]
        states = {name: download_state(d) for name, d in coming_now(listed).items()}
        loaded = [(r.model, r.state) for r in bench.supervisor.residents.values()]
        stamp = repr(([(d.id, d.state) for d in listed], sorted(loaded), bench.settings.value))
        return {"stamp": f"{hash(stamp):x}", "states": states}

    return routes
