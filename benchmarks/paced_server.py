"""The real server with two routes more: begin an answer of a given length at a given pace, and
read what each update of it cost. `python -m benchmarks.paced_server --home H --port P --token T`.

The page's form does not offer the echo's own settings. So the answer is begun here by the call
that Send makes, `Answers.start`, on a conversation in the store, and followed in the page by a
click on that conversation: from there on everything is as it is for a message that was typed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from tabs import TABS
from webui.answers import Answer
from webui.bench import Bench
from webui.door import own_hosts
from webui.server import bind, build_server, run, settle_home

TEXT = "some words of this answer stand for tokens of usual length and nothing in it is long"
Update = tuple[float, float, int]  # when, CPU seconds of this process so far, length of the text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    args = parser.parse_args()
    bench = Bench(settle_home(args.home), spare=False)
    app = build_server(bench, lambda: TABS, own_hosts("127.0.0.1"), args.token)
    add_routes(app, bench, record_updates())
    run(app, bind("127.0.0.1", args.port), lambda: None)


def record_updates() -> list[Update]:
    """From now on, what each watched update of an answer has cost is written down here.

    An update is written down when the next one is asked for: Gradio has worked on it by then.
    """
    updates: list[Update] = []
    watch = Answer.watch

    async def recorded(answer: Answer) -> AsyncGenerator[Answer, None]:
        async with aclosing(watch(answer)) as seen:
            async for live in seen:
                yield live
                updates.append((time.monotonic(), time.process_time(), len(live.text)))

    Answer.watch = recorded  # type: ignore[method-assign,assignment]
    return updates


def add_routes(app: FastAPI, bench: Bench, updates: list[Update]) -> None:
    async def conversation(title: str) -> dict[str, Any]:
        """A conversation with a message that waits for its answer."""
        made = bench.store.new_conversation(title, "echo", {}).id
        bench.store.add_message(made, "user", TEXT)
        return {"id": made}

    async def start(id: str, words: int, pace: float, text: str = TEXT) -> dict[str, Any]:
        updates.clear()
        message = bench.store.add_message(id, "assistant", "", state="streaming", model="echo")
        params = {
            "messages": [{"role": "user", "content": text}],
            "words": words,
            "words_per_second": pace,
        }
        bench.answers.start(id, message.id, bench.find("echo"), params)
        return {}

    async def state(id: str) -> dict[str, Any]:
        answer = bench.answers.of(id)
        return {"running": answer is not None, "updates": updates}

    # In front of the page, which is mounted on "/" and would take every path.
    app.router.routes[:0] = [
        APIRoute("/bench/conversation", conversation, methods=["POST"]),
        APIRoute("/bench/start", start, methods=["POST"]),
        APIRoute("/bench/state", state, methods=["GET"]),
    ]


if __name__ == "__main__":
    main()
