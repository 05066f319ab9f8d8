"""A throw-away process of ours that makes something and says how far it is, line by line.

`python -m MODULE WORDS…`, offline and without a token. Stdout, a JSON object a line:
{"say": "progress", "done", "total", "file"}, at last {"say": "done", …} or
{"say": "failed", "message", "hint"}.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.events import Progress
from backends.models import library
from backends.runtime.process import CHECKOUT, child_environment, kill_tree, own_temp, start_flags

LINE_BYTES = 4_000_000
TAIL_BYTES = 4000


async def run_tool(
    module: str, words: list[str], died: Refused, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """The process's last line. Raises Refused with what it says, or `died`. Cancelling kills it."""
    home = library.home()
    temp = Path(tempfile.mkdtemp(prefix="tool-", dir=own_temp(home)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
        env=child_environment(temp),
        cwd=CHECKOUT,
        **start_flags(),
    )  # fmt: skip
    assert process.stdout and process.stderr
    errors = asyncio.create_task(process.stderr.read())
    last: dict[str, Any] = {}
    try:
        while line := await process.stdout.readline():
            last = json.loads(line)
            if last["say"] == "progress":
                report(Progress(int(last["done"]), int(last["total"]), str(last["file"])[:200]))
        await process.wait()
    except (ValueError, KeyError, TypeError):
        last = {}
    finally:
        if process.returncode is None:
            kill_tree(process.pid)
            await process.wait()
        detail = (await errors)[-TAIL_BYTES:].decode("utf-8", "replace")
        shutil.rmtree(temp, ignore_errors=True)
    if last.get("say") == "failed":
        raise Refused(str(last["message"]), str(last["hint"]), detail)
    if last.get("say") != "done":
        raise Refused(died.message, died.hint, detail)
    return last
