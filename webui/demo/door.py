"""Who gets into a demo, and to what: an ASGI middleware in front of everything. Deny by default.

Two lists: the few paths that the page needs, and the visitors who brought the passphrase. Anything
else is answered 404 or the page that asks for it; nothing of Gradio's is reached without both.
"""

from __future__ import annotations

import asyncio
import html
import time
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.demo.passphrase import same
from webui.demo.quota import Visitor
from webui.demo.state import Demo
from webui.door import cookie_of, host_name, with_headers

VISITOR = "werkbank.visitor"  # key in the ASGI scope
WRONG_SECONDS = 1.0  # a wrong passphrase is answered so late
WRONG_AT_ONCE = 10  # so many are answered at a time, from all addresses
LARGEST_BODY = 64 * 1024  # bytes
COOKIE = "werkbank_demo_"
LOOPBACK = ("127.0.0.1", "::1")
# What the page asks for, seen in Chromium; `tests/webui/demo/test_door.py` walks all the others.
LISTEN = "/gradio_api/queue/data"
GET_PATHS = {"/", "/theme.css", "/favicon.ico", LISTEN}
GET_FOLDERS = ("/assets/", "/static/")
POST_PATHS = {"/gradio_api/queue/join"}
# The first ones would make Gradio believe in another address than ours. It needs no cookie, and
# reads them with `http.cookies`, see `webui.door.cookie_of`.
NOT_PASSED = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server", b"forwarded",
              b"cookie")  # fmt: skip
PAGE = (Path(__file__).resolve().parents[2] / "assets" / "demo_door.html").read_text("utf-8")
ASK = "Whoever gave you this address has the passphrase too."
FORM = (
    '<form method="post" action="/enter"><label for="passphrase">Passphrase</label>'
    '<input id="passphrase" name="passphrase" autocomplete="off" autocapitalize="none" '
    'spellcheck="false" autofocus required maxlength="200"><button>Enter</button></form>'
)
ENDED = "This demo has ended."
BYE = "Its owner has closed it, or its time was over. What was written here has not been kept."


class DemoDoor:
    def __init__(self, app: ASGIApp, demo: Demo) -> None:
        self.app, self.demo = app, demo
        self.cookie = COOKIE + demo.id
        self.answering_wrong = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        sending = with_headers(send)
        answer = await self._answer(scope, receive, headers)
        if answer is not None:
            return await answer(scope, receive, sending)
        scope["scheme"] = self.demo.scheme
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in NOT_PASSED]
        if scope["method"] == "POST":
            body = await read_body(receive)
            if body is None:
                return await refusal(413, "That is too large.")(scope, receive, sending)
            if not self.demo.calls.may_join(scope[VISITOR], body):
                return await not_ours()(scope, receive, sending)
            receive = replay(body, receive)
        await self.app(scope, receive, sending)

    async def _answer(
        self, scope: Scope, receive: Receive, headers: dict[str, str]
    ) -> Response | None:
        """What to answer instead of the page; None where the request may pass."""
        host, path, method = headers.get("host", ""), scope["path"], scope["method"]
        if host_name(host) not in self.demo.hosts:
            return refusal(421, "This address is not known here.")
        if self.demo.ended:
            return door_page(410, ENDED, BYE) if path == "/" else refusal(410, ENDED)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return refusal(403, "Another web page tried to use this demo.")
        if path == "/enter" and method == "POST":
            return await self._enter(scope, receive, headers)
        visitor = self._visitor(headers)
        if path == "/alive" and method == "GET":
            return self._alive(visitor)
        if not wanted(method, path):
            return refusal(404, "There is nothing here.")
        if visitor is None:
            if path == "/":
                return door_page(401, "A chat, for invited guests.", ASK, FORM)
            return refusal(401, "Enter the passphrase first.")
        scope[VISITOR] = visitor.id
        if path == LISTEN and not self.demo.calls.owns(visitor.id, page_hash(scope)):
            return not_ours()
        return None

    def _visitor(self, headers: dict[str, str]) -> Visitor | None:
        return self.demo.visitors.known.get(cookie_of(headers.get("cookie", ""), self.cookie))

    def _alive(self, visitor: Visitor | None) -> Response:
        """Asked twice a second by every page that can be seen; so it sees the end."""
        if visitor is None:
            return refusal(401, "Enter the passphrase first.")
        visitor.seen = time.monotonic()
        terms = self.demo.offer.terms
        return JSONResponse(
            {
                "left": self.demo.visitors.left(visitor),
                "messages": terms.messages,
                "seconds": self.demo.seconds_left,
            },
            headers={"Cache-Control": "no-store"},
        )

    async def _enter(self, scope: Scope, receive: Receive, headers: dict[str, str]) -> Response:
        body = await read_body(receive)
        address = self._address(scope, headers)
        if (seconds := self.demo.lockout.wait(address)) or self.answering_wrong >= WRONG_AT_ONCE:
            seconds = max(1, round(seconds))
            said = f"Too many wrong passphrases. Try again in {seconds} s."
            answer = door_page(429, "Locked for a while.", said, FORM)
            answer.headers["Retry-After"] = str(seconds)
            return answer
        text = (body or b"").decode("utf-8", "replace")
        offered = dict(parse_qsl(text)).get("passphrase", "")
        if not same(offered, self.demo.offer.passphrase):
            left = self.demo.lockout.wrong(address)
            self.answering_wrong += 1
            try:
                await asyncio.sleep(WRONG_SECONDS)
            finally:
                self.answering_wrong -= 1
            tries = f"{left} more tr{'y' if left == 1 else 'ies'}." if left else "Wait a minute."
            return door_page(403, "That is not the passphrase.", f"{ASK} {tries}", FORM)
        self.demo.lockout.right(address)
        return self._let_in(self._visitor(headers) or self.demo.visitors.enter())

    def _let_in(self, visitor: Visitor | None) -> Response:
        if visitor is None:
            most = self.demo.offer.terms.visitors
            return door_page(503, "This demo is full.", f"It takes {most} guests. Tell its owner.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self.cookie, visitor.id, max_age=self.demo.seconds_left, httponly=True,
            samesite="lax", secure=self.demo.scheme == "https",
        )  # fmt: skip
        return answer

    def _address(self, scope: Scope, headers: dict[str, str]) -> str:
        """Who calls. Through the tunnel all come from this computer, and the share server says who;
        what stands there before its own word is the caller's, and could be anything."""
        peer = str((scope.get("client") or ("",))[0])
        if self.demo.proxied and peer in LOOPBACK:
            return headers.get("x-forwarded-for", "").rpartition(",")[2].strip()[:64] or peer
        return peer


def wanted(method: str, path: str) -> bool:
    """Does the demo's page need this?"""
    if ".." in path or "\\" in path:
        return False
    if method in ("GET", "HEAD"):
        return path in GET_PATHS or path.startswith(GET_FOLDERS)
    return method == "POST" and path in POST_PATHS


async def read_body(receive: Receive) -> bytes | None:
    """The whole of it; None where it is larger than a message can be, or the caller has gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)


def not_ours() -> Response:
    return refusal(403, "This is no call of your page. Reload it.")


def page_hash(scope: Scope) -> str:
    """The page whose events are asked for."""
    query: bytes = scope["query_string"]
    return dict(parse_qsl(query.decode("latin-1"))).get("session_hash", "")


def door_page(status: int, title: str, said: str, form: str = "") -> Response:
    page = PAGE.replace("{title}", html.escape(title)).replace("{said}", html.escape(said))
    return HTMLResponse(page.replace("{form}", form), status, headers={"Cache-Control": "no-store"})
