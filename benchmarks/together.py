"""Two small models that both fit, asked side by side, against the slower one of them alone."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from benchmarks.measure import Bar, CannotRun, Plan, Row
from benchmarks.starter import GGUF, SAFETENSORS, STORY, listed
from webui.answers import Answer, watch
from webui.bench import Bench
from webui.chat.pair import begin_pair
from webui.chat.turns import Asked, Wish, begin

TOGETHER = Bar("side by side of two models against the slower one alone", 1.6)
BARS = (TOGETHER,)


def measure(plan: Plan) -> Iterator[Row]:
    """Rounds of: the one alone, the other alone, both; the same message and length."""
    rounds = asyncio.run(take(plan.home("together"), plan.pairs, plan.tokens // 2))
    ratios = [both / max(alone) for *alone, both in rounds]
    seconds = "; ".join(f"{a:.2f} and {b:.2f} alone, {both:.2f} together" for a, b, both in rounds)
    yield TOGETHER.row(
        statistics.median(ratios),
        f"the median of {len(ratios)}: {', '.join(f'{r:.2f}' for r in ratios)}; {plan.tokens // 2} "
        f"tokens each, in seconds: {seconds}",
        rounds=rounds,
    )


async def take(home: Path, count: int, tokens: int) -> list[tuple[float, float, float]]:
    # A seed, so that nothing of an earlier round is used again in a later one.
    settings = {"max_new_tokens": tokens, "temperature": 1.0, "seed": 7}
    one, other = (Asked(listed(name), {}, settings) for name in (GGUF, SAFETENSORS))
    rounds = []
    async with running(home) as bench:
        if not bench.fits_together((one.listed, {}), (other.listed, {})):
            raise CannotRun("There is not memory enough here for both models at once.")
        for asked in (one, other):  # loaded, and warm
            await finish(begin(bench, Wish("send", text="Hello"), asked))
        for _ in range(count):
            alone = [await timed(bench, [asked]) for asked in (one, other)]
            rounds.append((*alone, await timed(bench, [one, other])))
    return [(a, b, both) for a, b, both in rounds]


async def timed(bench: Bench, asked: list[Asked]) -> float:
    """Seconds from the message to the end of the last answer."""
    wish, began = Wish("send", text=STORY), time.monotonic()
    if len(asked) > 1:
        await finish(*begin_pair(bench, wish, *asked))
    else:
        await finish(begin(bench, wish, asked[0]))
    return time.monotonic() - began


async def finish(*answers: Answer | None) -> None:
    known = [answer for answer in answers if answer]
    async for _ in watch(*known):  # one that nobody watches would be stopped
        pass
    for answer in known:
        if answer.state != "done":
            raise CannotRun(f"The answer ended as {answer.state}: {answer.note}")


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[Bench]:
    bench = Bench(home, spare=False)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()
