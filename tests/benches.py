"""A bench with no page around it, for as long as a test's body runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from webui.bench import Bench


def with_bench(home: Path, body: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    """Without a warm spare, unless `options` say otherwise."""

    async def run() -> None:
        bench = Bench(home, **{"spare": False, **options})
        await bench.start()
        try:
            await body(bench)
        finally:
            await bench.stop()

    asyncio.run(run())
