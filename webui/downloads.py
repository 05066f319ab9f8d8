"""Files that the page offers: a conversation as Markdown or JSON, an export of all of them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse

from backends.base import Refused
from webui.bench import Bench
from webui.store import transfer

EXPORT = re.compile(r"all-[0-9a-f]{32}\.jsonl")
TYPES = {"md": "text/markdown", "json": "application/json"}


def exports(bench: Bench) -> Path:
    """The folder of finished exports; it is emptied at every start."""
    folder = bench.temp / "exports"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def build_downloads(bench: Bench) -> APIRouter:
    router = APIRouter()

    @router.get("/export/{name}")
    def export(name: str) -> Response:  # not async: reading may wait for another program's lock
        """`ID.md`, `ID.json`, or the name that an export of all was given."""
        if EXPORT.fullmatch(name):
            path = exports(bench) / name
            if path.is_file():
                return FileResponse(path, media_type="application/jsonl", headers=saved_as(name))
        id, _, kind = name.rpartition(".")
        try:
            if kind not in TYPES:
                raise Refused("There is no such file.", "Export it again.")
            text = transfer.export_one(bench.store, id, kind)
            known = bench.store.conversation(id)
        except Refused as refused:
            return PlainTextResponse(str(refused), 404)
        title = transfer.file_name(known.title if known else "", kind)
        return Response(text, media_type=f"{TYPES[kind]}; charset=utf-8", headers=saved_as(title))

    return router


def saved_as(name: str) -> dict[str, str]:
    """Never shown in the browser, always saved, under this name."""
    return {"Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}"}
