"""Files that the page offers: a conversation as Markdown or JSON, an export of all, an adapter."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse

from backends.base import Refused
from webui.bench import Bench
from webui.store import transfer

EXPORT = re.compile(r"(all|adapter-[a-z0-9-]{1,60})-[0-9a-f]{32}\.(jsonl|zip)")
FILES = {".jsonl": "application/jsonl", ".zip": "application/zip"}
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
        """`ID.md`, `ID.json`, or the name that a finished file was given, which nobody guesses."""
        if EXPORT.fullmatch(name):
            path = exports(bench) / name
            if path.is_file():
                kind, plain = FILES[path.suffix], re.sub(r"^adapter-(.+)-\w{32}(?=\.)", r"\1", name)
                return FileResponse(path, media_type=kind, headers=saved_as(plain))
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
