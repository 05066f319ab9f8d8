"""How an answer is watched: as often as a browser can draw it, however fast it grows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from webui.answers import PACE, Answer
from webui.bench import Bench
from webui.server import build_server


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


def test_another_programs_lock_neither_stops_the_loop_nor_the_answer(tmp_path: Path) -> None:
    async def lags_and_notes() -> tuple[float, set[str], str, list[Any]]:
        bench = Bench(tmp_path, spare=False)
        await bench.start()
        made = bench.store.new_conversation("t").id
        message = bench.store.add_message(made, "assistant", "", state="streaming")
        params = {"messages": [{"role": "user", "content": "x"}], "words": 60,
                  "words_per_second": 20}  # fmt: skip
        answer = bench.answers.start(made, message.id, bench.find("echo"), params)
        answer.watchers += 1
        while not answer.text:
            await asyncio.sleep(0.02)
        other = sqlite3.connect(tmp_path / "werkbank.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        worst, notes, before = 0.0, set(), time.monotonic()
        while not answer.over:
            await asyncio.sleep(0.02)
            worst, before = max(worst, time.monotonic() - before), time.monotonic()
            notes.add(answer.note)
        [shown] = bench.store.messages(made)
        other.execute("ROLLBACK")
        other.close()
        deadline = time.monotonic() + 10
        saved = "SELECT text, state FROM messages"
        while bench.store.database.read(saved)[0][1] != "done" and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        rows = bench.store.database.read(saved)
        await bench.stop()
        return worst, notes, shown.text, rows

    worst, notes, shown, rows = asyncio.run(lags_and_notes())
    assert worst < 1.0  # not the five seconds that a thread waits
    assert any("Another program holds the file" in note for note in notes)
    assert len(shown.split()) >= 60 and rows == [(shown, "done")]


def test_an_answer_waits_longer_for_a_page_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.answers.ALONE", 0.3)
    monkeypatch.setattr("webui.answers.OPENING", 4.0)

    async def seconds_until_given_up(opening: bool) -> float:
        bench = Bench(tmp_path / str(opening), spare=False)
        await bench.start()
        server = build_server(bench, tuple, {"t"}, None)
        made = bench.store.new_conversation("t").id
        message = bench.store.add_message(made, "assistant", "", state="streaming")
        params = {
            "messages": [{"role": "user", "content": "x"}],
            "words": 4000,
            "words_per_second": 20,
        }
        answer = bench.answers.start(made, message.id, bench.find("echo"), params)
        began = time.monotonic()
        if opening:
            transport = httpx.ASGITransport(server)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                assert (await client.get("/")).status_code == 200
        while not answer.over:
            await asyncio.sleep(0.05)
        await bench.stop()
        assert "nobody was watching" in answer.note
        return time.monotonic() - began

    assert asyncio.run(seconds_until_given_up(False)) < 4.0
    assert asyncio.run(seconds_until_given_up(True)) > 4.0
