"""The doctor looks at a dataset, in a worker of its own, and what it says is kept with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.events import Done, Event, Failed, Item, Progress
from webui.bench import Bench
from webui.finetune.datasets import Datasets, Kept


@dataclass
class Look:
    """What is known so far. `problem`: two sentences where it could not be looked at."""

    kept: Kept
    said: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    problem: str = ""
    detail: str = ""


async def look(
    bench: Bench, datasets: Datasets, kept: Kept, base: str = "none:"
) -> AsyncGenerator[Look, None]:
    """Each state of the look, at last the whole one. Closing the iterator ends the worker.

    `base`: a reference of the model whose tokens are counted.
    """
    found = Look(kept, dict(kept.said))
    try:
        beside = datasets.validation(kept)  # it may have changed since
    except Refused as refused:
        beside, found.problem = {}, str(refused)
    known = {"dataset", "report", "lengths"} <= kept.said.keys()
    if known and kept.said.get("beside", {}) == beside and Path(kept.path).exists():
        yield found
        return
    found.said["beside"] = beside
    params = {"do": "examine", "exact": base != "none:", "validation": beside}
    async with contextlib.aclosing(ask(bench, datasets, kept, base, params)) as events:
        async for event in events:
            if isinstance(event, Item):
                found.said[event.kind] = event.data
                found.progress = None
            elif isinstance(event, Progress):
                found.progress = event
            elif isinstance(event, Failed):
                found.problem, found.detail = str(event), event.detail
            elif isinstance(event, Done):
                found.progress = None
            yield found
    if found.said.get("report", {}).get("complete"):
        datasets.remember(kept.id, kept.how, **found.said)


async def ask(
    bench: Bench, datasets: Datasets, kept: Kept, base: str, params: dict[str, Any]
) -> AsyncGenerator[Event, None]:
    """All events of one run of the doctor on this dataset, in a worker of its own that is gone at
    the end. `params`: of `backends.finetune.dataset`, without what `kept` says."""
    resident = bench.supervisor.admit("dataset", base, {}, "Dataset")
    params = {
        "path": kept.path, **params, **datasets.allowed_for(kept), **kept.how.as_params()
    }  # fmt: skip
    try:
        async with contextlib.aclosing(bench.supervisor.run(resident, params)) as events:
            async for event in events:
                yield event
    finally:
        # A task of its own: who left the page is cancelled again at every await.
        await asyncio.shield(asyncio.ensure_future(bench.supervisor.unload(resident)))


async def counted(
    bench: Bench, datasets: Datasets, kept: Kept, base: str, most: int = 0
) -> AsyncGenerator[Progress | None, None]:
    """Count the tokens of every row as `base` reads them, and keep that with the dataset.

    Yields how far it is, at last None; nothing where it is known already, where the rows were
    never looked at, or where there are more than `most` of them (0: however many).
    """
    report, before = kept.said.get("report"), kept.said.get("lengths", {})
    if not (report and base) or before.get("base") == base or 0 < most < report["rows"]:
        return
    asked = {"do": "examine", "exact": True}
    async with contextlib.aclosing(ask(bench, datasets, kept, base, asked)) as events:
        async for event in events:
            if isinstance(event, Progress):
                yield event
            elif isinstance(event, Item) and event.kind == "lengths" and event.data["exact"]:
                datasets.remember(kept.id, kept.how, lengths={**event.data, "base": base})
    yield None
