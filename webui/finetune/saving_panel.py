"""The repaired set as a file of its own: written by the doctor, with a hash and a manifest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from html import escape
from typing import Any

import gradio as gr

from backends.base import Refused
from backends.events import Failed, Item, Progress
from backends.finetune.data.fixes import safe_name
from webui.bench import Bench
from webui.finetune.datasets import Datasets, Kept
from webui.finetune.looking import ask
from webui.model_picker import problem, progress_bar


class SavingPanel:
    """A button among the repairs; what it made is one more dataset in the list."""

    def __init__(self, bench: Bench, datasets: Datasets) -> None:
        self.bench, self.datasets = bench, datasets

    def place(self) -> None:
        self.button = gr.Button("Save as a new file", size="sm", elem_id="finetune-save")

    def place_said(self) -> None:
        self.said = gr.HTML(elem_id="finetune-saved")

    async def save(self, id: str | None) -> AsyncGenerator[tuple[str, Kept | None], None]:
        """What to say, and at last the set that was made; None where there is none."""
        try:
            kept = self.datasets.get(id or "")
            with self.datasets.staged() as staged:
                name = safe_name(kept.name)
                asked = {"do": "write", "out": str(staged / "file" / name)}
                written: dict[str, Any] = {}
                events = ask(self.bench, self.datasets, kept, "none:", asked)
                async with contextlib.aclosing(events):
                    async for event in events:
                        if isinstance(event, Progress):
                            yield progress_bar(event, "Writing"), None
                        elif isinstance(event, Item) and event.kind == "written":
                            written = event.data
                        elif isinstance(event, Failed):
                            yield problem(str(event), event.detail), None
                            return
                if written:
                    made = await asyncio.to_thread(self.datasets.keep, name, staged)
                    yield saved(made, written), made
        except Refused as refused:
            yield problem(str(refused), refused.detail), None


def saved(made: Kept, manifest: dict[str, Any]) -> str:
    """What was written, its hash, and a link to take it away."""
    rows = manifest["rows"]
    left = rows["in"] - rows["written"]
    told = f"{rows['written']:,} rows" + (f", {left:,} left out" if left else "")
    return (
        f'<div class="line good">Saved as <a href="/api/datasets/{escape(made.id)}/file" download>'
        f"{escape(made.name)}</a>: {told}. It is in the list of datasets."
        f'<br><code title="{escape(manifest["sha256"])}">sha256 '
        f"{escape(manifest['sha256'][:16])}…</code></div>"
    )
