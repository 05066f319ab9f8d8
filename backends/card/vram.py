"""Memory of a GPU as the driver tells it: who has how much, what came back, what stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.card.ledger import RESERVE
from backends.card.reading import Gpu, Reading

SLACK_BYTES = 300 * 2**20  # more than this still missing counts as not given back
BACK_SECONDS = 5.0  # that memory has to come back in
BESIDE_A_SCREEN = 2**28  # bytes more that stay free where a display hangs on the card


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes in use: of one process, or of the whole device where the driver tells no more."""

    bytes: int
    of_process: bool


def gpu_of(reading: Reading, device: str) -> Gpu | None:
    """The GPU that "cuda:N" is in this reading; None for "cpu" and for one that is not there."""
    return next((gpu for gpu in reading.gpus if f"cuda:{gpu.index}" == device), None)


def used(reading: Reading, device: str, pid: int) -> Used | None:
    """What a process holds there; of the device where its processes are not told, or are known to
    the driver by other numbers (a container). None where nothing is known."""
    gpu = gpu_of(reading, device)
    if gpu is None:
        return None
    mine = _of_process(gpu, pid)
    if mine:
        return Used(mine, True)
    return None if gpu.used_bytes is None else Used(gpu.used_bytes, False)


def _of_process(gpu: Gpu, pid: int) -> int | None:
    """0 where it is not among those that the driver tells; None where it tells none."""
    if gpu.processes is None:
        return None
    return next((process.bytes for process in gpu.processes if process.pid == pid), 0)


def reserve_bytes(reading: Reading, device: str, settled: int | None = None) -> int:
    """What stays free on a device: `settled` on a GPU where the owner has, else half a gigabyte,
    and more where a display hangs on it."""
    if device == "cpu":
        return RESERVE["cpu"]
    if settled is not None:
        return settled
    gpu = gpu_of(reading, device)
    return RESERVE["cuda"] + (BESIDE_A_SCREEN if gpu and gpu.display else 0)


async def came_back(
    read: Callable[[], Awaitable[Reading]],
    device: str,
    pid: int,
    before: Used | None,
    expected: int,
    seconds: float = BACK_SECONDS,
) -> tuple[int, bool]:
    """Waits until `expected` bytes less are in use than `before`, but for the slack.

    Returns how many came back, and whether that was enough in time. Where the driver tells nothing
    the expected ones count.
    """
    until = time.monotonic() + seconds
    while True:
        gpu = gpu_of(await read(), device)
        left = None
        if before and gpu:
            left = _of_process(gpu, pid) if before.of_process else gpu.used_bytes
        if before is None or left is None:
            return expected, True
        back = max(0, before.bytes - left)
        if back >= expected - SLACK_BYTES:
            return back, True
        if time.monotonic() >= until:
            return back, False
        await asyncio.sleep(0.1)
