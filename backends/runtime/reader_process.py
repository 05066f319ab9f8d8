"""The life of a process that reads one file of a stranger: bytes in, one line of JSON out.

It knows neither path nor name, has a clock and a limit of memory of its own, and shuts its doors
(`fence.py`) before the first byte comes. `webui/stranger.py` starts it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from backends.runtime.fence import shut_doors


def limit_memory(memory: int) -> None:
    """Hard limits, where the system keeps them. Elsewhere the clock alone has to do."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def answer_once(answer: Callable[[bytes], dict[str, Any]], memory: int, most: int) -> None:
    """Print what `answer` makes of standard input.

    memory: bytes of address space. most: bytes of a file; one byte more is read, so that `answer`
    sees that it is too large. The first argument says after how many seconds the process ends.
    """
    limit_memory(memory)
    # Watched by a C thread that needs no GIL and ends the process.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True, file=nowhere)
    out = os.dup(1)
    os.dup2(nowhere, 1)  # libraries print
    sys.dont_write_bytecode = True
    shut_doors()
    data = sys.stdin.buffer.read(most + 1)
    line = json.dumps(answer(data), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    while line:
        line = line[os.write(out, line) :]
