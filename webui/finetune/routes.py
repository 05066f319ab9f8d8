"""What the job panel polls: all jobs, and of the one that is looked at its curve, what the pinned
questions were answered, and its snapshots.

The browser asks while the Fine-tune tab can be seen (assets/jobs.js), so that Gradio's queue never
hears of a training that goes on, and a reload has the whole curve with its first answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from backends.base import Refused
from backends.runtime.disk import read_lines
from backends.runtime.job_state import JobState
from backends.runtime.jobs import Jobs
from webui.bench import Bench
from webui.finetune.datasets import Datasets
from webui.finetune.plan import corrected

POINTS = 4000  # of a curve in one answer; a longer one is thinned out
NOTICES = 6  # the last ones of a job
CORRECTED = 50  # steps, after which what a forecast became is asked for only once
SHOWN = ("base", "dataset", "params", "options", "forecast")


def build_job_routes(bench: Bench) -> APIRouter:
    routes, jobs = APIRouter(), bench.jobs

    @routes.get("/api/jobs")
    async def listed() -> dict[str, Any]:
        rows = await asyncio.to_thread(lambda: [row(state) for state in jobs.listed()])
        return {"jobs": rows, "deleted": await asyncio.to_thread(jobs.deleted)}

    @routes.get("/api/jobs/{id}")
    async def one(id: str, metrics: int = 0, samples: int = 0) -> Response:
        """Of one job what is newer than these bytes of its two files."""
        try:
            since = [min(max(0, byte), sys.maxsize) for byte in (metrics, samples)]
            said = await asyncio.to_thread(told, jobs, id, *since)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 404)
        if why := bench.job_ledger.waiting_because(id):
            said["job"] |= {"message": why, "hint": "It starts by itself when there is room."}
        said["merging"] = any(ref.name == id for ref in bench.merges.running_refs())
        return JSONResponse(said)

    @routes.get("/api/datasets/{id}/file")
    async def file(id: str) -> Response:
        """One of the datasets that lie in HOME, to be saved by the browser."""
        datasets = Datasets(bench.home)
        try:
            kept = await asyncio.to_thread(datasets.get, id)
        except Refused as refused:
            return PlainTextResponse(str(refused), 404)
        path = Path(kept.path).resolve()
        if not path.is_relative_to(datasets.folder.resolve()) or not path.is_file():
            return PlainTextResponse("This file is not here. Take it from where it lies.", 404)
        return FileResponse(path, media_type="application/octet-stream", filename=kept.name)

    @routes.get("/api/jobs/{id}/card")
    async def card(id: str) -> Response:
        """The run card, as a Markdown file."""
        try:
            text = await asyncio.to_thread(jobs.run_card, id)
        except Refused as refused:
            return PlainTextResponse(str(refused), 404)
        name = {"Content-Disposition": f'attachment; filename="{id}.md"'}
        return Response(text, media_type="text/markdown; charset=utf-8", headers=name)

    return routes


def row(state: JobState) -> dict[str, Any]:
    """A job of the list, as the browser has it."""
    said = asdict(state)
    said.pop("detail"), said.pop("pid")
    return said | {"live": state.live, "resumable": state.resumable}


def told(jobs: Jobs, id: str, metrics: int, samples: int) -> dict[str, Any]:
    """The body of `/api/jobs/ID`. Raises Refused where there is none."""
    state, spec = jobs.state(id), jobs.spec(id)
    lines, then = jobs.metrics(id, metrics)
    forecast = spec.get("forecast")
    first = lines if not metrics else jobs.metrics(id)[0] if state.step <= CORRECTED else []
    answers, sampled = jobs.samples(id, samples)
    about = {key: spec[key] for key in SHOWN if key in spec}
    dataset = str(spec.get("dataset", ""))
    about["dataset"] = dataset if dataset.startswith("hub:") else Path(dataset).name
    notices, _ = read_lines(jobs.path(id) / "events.jsonl", 0)
    said = [str(n["message"]) for n in notices if n.get("event") == "Notice" and "message" in n]
    size = 0
    with contextlib.suppress(OSError):  # a checkpoint is deleted just now
        size = jobs.disk_bytes(id)
    return {
        "job": row(state) | {"detail": state.detail},
        "about": about,
        "metrics": thinned(lines),
        "metrics_byte": then,
        "samples": answers,
        "samples_byte": sampled,
        "snapshots": [asdict(snapshot) for snapshot in jobs.snapshots(id)],
        "notices": said[-NOTICES:],
        "corrected": corrected(forecast, first, state.total) if forecast and first else None,
        "disk_bytes": size,
    }


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `POINTS` of them, the last one and those with a validation loss among them."""
    every = -(-len(lines) // POINTS)
    if every <= 1:
        return lines
    last = len(lines) - 1
    return [
        line
        for n, line in enumerate(lines)
        if n % every == 0 or n == last or "validation_loss" in line
    ]
