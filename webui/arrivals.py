"""Tells the answers when a page is being opened: whoever reloads on a slow machine watches soon."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from webui.answers import Answers


class Arrivals:
    """ASGI middleware behind the door: the page itself was asked for."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self.app, self.answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            self.answers.expect_a_watcher()
        await self.app(scope, receive, send)
