"""The lock on the door: token, Host, Origin, in front of every route. Deny by default.

One ASGI middleware, the outermost. It answers 421 for a Host that is not ours (DNS rebinding), 403
for a foreign Origin (another web page), 401 without the token. `GET /healthz` alone is open, and
then says only that somebody is there.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TRUSTED = "werkbank.trusted"  # key in the ASGI scope: the caller brought the token
COOKIE_SECONDS = 365 * 86400
# Gradio needs inline scripts and eval; but nothing may come from, or go to, another host: an
# answer with a picture's address in it must not tell that host that it was read.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", POLICY.encode()),
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_KEY_PAGE = """<!doctype html><meta charset="utf-8"><title>Werkbank</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:15vh auto;padding:0 1em;color:#888}}
b{{color:#c60}}</style><p><b>{what}</b> {mend}</p>"""


class Door:
    """`token` None lets everybody in who comes with a known Host and no foreign Origin."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None) -> None:
        self.app, self.token = app, token
        self.hosts = {h.lower().strip("[]") for h in hosts}
        name = hashlib.sha256((token or "").encode()).hexdigest()[:8]
        self.cookie = f"werkbank_{name}"  # cookies do not know ports: two benches on one host
        # Derived, so that whoever reads a browser's cookies does not have the token.
        self.pass_value = hmac.digest((token or "").encode(), b"werkbank cookie", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        answer = self.refuse(scope)
        if answer is None:
            return await self.app(scope, receive, with_headers(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        await answer(scope, receive, with_headers(send))

    def refuse(self, scope: Scope) -> Response | None:
        """None where the request may pass; otherwise what to answer instead."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if host_name(host) not in self.hosts:
            return _deny(
                421, headers, "This address is not known to Werkbank.",
                "Use the address that it printed at its start.",
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return _deny(
                403, headers, "Another web page tried to use Werkbank.",
                "Open Werkbank itself, at the address that it printed at its start.",
            )  # fmt: skip
        return self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        path, method = scope["path"], scope.get("method", "GET")
        scope[TRUSTED] = self.token is None or self._trusts(headers)
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if self.token and method == "GET" and path == "/" and self._right(query.get("token", "")):
            return self._let_in(scope, query, headers)
        if scope[TRUSTED] or (method == "GET" and path == "/healthz"):
            return None
        return _deny(
            401, headers, "This Werkbank is locked.",
            "Open the link that it printed at its start (it ends in ?token=…), or send the token "
            "as `Authorization: Bearer TOKEN`.",
        )  # fmt: skip

    def _trusts(self, headers: dict[str, str]) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._right(bearer.strip())
        value = cookie_of(headers.get("cookie", ""), self.cookie)
        return hmac.compare_digest(value.encode(), self.pass_value.encode())

    def _right(self, offered: str) -> bool:
        token = self.token or ""
        return bool(token) and hmac.compare_digest(offered.encode(), token.encode())

    def _let_in(self, scope: Scope, query: dict[str, str], headers: dict[str, str]) -> Response:
        rest = "&".join(f"{quote(k)}={quote(v)}" for k, v in query.items() if k != "token")
        answer = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(
            self.cookie,
            self.pass_value,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",  # strict would not survive a click on the link in a mail program
            secure=headers.get("x-forwarded-proto", scope.get("scheme")) == "https",
        )
        return answer


def host_name(header: str) -> str:
    """The name in a Host header: without the port, without brackets, in lower case."""
    if header.startswith("["):
        name, closed, _ = header[1:].partition("]")
        return name.lower() if closed else ""
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def cookie_of(header: str, name: str) -> str:
    """The value of one of our cookies, "" where it is not there; ours are never quoted.

    Not `http.cookies`: up to Python 3.11.9 it takes 11 s for 60 kB of backslashes
    (CVE-2024-7592), and whoever sends them needs no token.
    """
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for key, _, value in pairs if key == name), "")


def with_headers(send: Send) -> Send:
    """The same `send`, with the headers that every answer has."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return sending


def _deny(status: int, headers: dict[str, str], what: str, mend: str) -> Response:
    if "text/html" in headers.get("accept", ""):
        return HTMLResponse(NO_KEY_PAGE.format(what=what, mend=html.escape(mend)), status)
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": f"{what} {mend}", "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status)


def own_hosts(bound_to: str) -> set[str]:
    """The names by which this computer may be called, given the address it listens on."""
    names = {*LOOPBACK, bound_to}
    if bound_to in ("0.0.0.0", "::", ""):
        names |= {socket.gethostname(), *_own_addresses()}
    return names


def _own_addresses() -> set[str]:
    import psutil

    found = {a.address for nic in psutil.net_if_addrs().values() for a in nic}
    return {a.partition("%")[0] for a in found}


def keep_token(file: Path) -> str:
    """The token of this home: made at first start, readable by its owner alone, valid for good."""
    if file.exists() and (token := file.read_text(encoding="utf-8").strip()):
        return token
    token = secrets.token_urlsafe(24)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(token + "\n", encoding="utf-8")
    return token
