"""How an answer is watched: as often as a browser can draw it, however fast it grows."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from webui.answers import PACE, Answer


def test_an_answer_that_grows_all_the_time_is_shown_no_more_often_than_the_pace() -> None:
    async def updates_in(seconds: float) -> int:
        answer, shown = Answer("c", "m"), 0

        async def grow() -> None:
            while True:
                answer.text += "word "
                answer.bump()
                await asyncio.sleep(0)

        growing = asyncio.create_task(grow())
        ends = asyncio.get_running_loop().time() + seconds
        async with aclosing(answer.watch()) as seen:
            async for _ in seen:
                shown += 1
                await asyncio.sleep(0.002)  # drawing takes a moment, and it grows meanwhile
                if asyncio.get_running_loop().time() > ends:
                    break
        growing.cancel()
        return shown

    assert 1 < asyncio.run(updates_in(0.5)) <= 0.5 / PACE + 2


def test_the_last_words_are_shown_before_the_watching_ends() -> None:
    async def last_seen() -> str:
        answer, text = Answer("c", "m"), ""
        async with aclosing(answer.watch()) as seen:
            async for live in seen:
                text = live.text
                if not answer.over:  # the end comes while the update before it is drawn
                    answer.text, answer.state = "all of it", "done"
                    answer.bump()
        return text

    assert asyncio.run(asyncio.wait_for(last_seen(), 5)) == "all of it"
