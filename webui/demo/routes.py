"""The owner's routes: what the banner reads and does. They stand behind the page's own door."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from backends.base import Refused
from webui.bench import Bench
from webui.demo.state import Where


class Again(BaseModel):
    model_config = ConfigDict(extra="forbid")
    where: Where


def build_share_routes(bench: Bench) -> APIRouter:
    router = APIRouter(prefix="/api/share")

    @router.get("")
    async def read() -> dict[str, Any]:
        """State, address, passphrase, QR code."""
        return bench.sharing.full()

    @router.post("/stop")
    async def stop() -> dict[str, Any]:
        """End the demo. The address is dead when this answers."""
        await bench.sharing.stop()
        return bench.sharing.full()

    @router.post("/again")
    async def again(wish: Again) -> Response:
        """The same once more after a failure, through a new tunnel or in the local network."""
        try:
            bench.sharing.again(wish.where)
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 409)
        return JSONResponse(bench.sharing.full())

    return router
