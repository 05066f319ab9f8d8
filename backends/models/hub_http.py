"""Requests to the hub, one way for search and downloads: redirects by hand, errors as sentences.

The token goes to the hub's own host and to no other: a redirect to a content server goes without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx

from backends.base import Refused
from backends.models.repo import What

HOPS = 6
ANSWER_BYTES = 30_000_000  # of an answer in JSON; a listing of 50,000 files has about 15 MB
ANEW = "Start the download anew: it takes the version of today."
TOKENS = "https://huggingface.co/settings/tokens"

Kind = Literal[
    "token", "gated", "missing", "revision", "offline", "busy", "server", "changed", "disk",
    "full", "damaged",
]  # fmt: skip
AGAIN: tuple[Kind, ...] = ("offline", "busy", "server")  # what a while may mend by itself


class HubError(Refused):
    """What the hub would not do. `kind` is for code; `wait` are the seconds that the hub asks for.

    token    the token is missing, expired or may not do this       gated   a licence is to accept
    missing  no such one, or no such file       revision  no such version  offline no connection
    busy     too many requests           server    it is broken     changed it moved under way
    disk     it cannot be written        full     no room on it
    damaged  what came is not what was promised
    """

    def __init__(self, kind: Kind, message: str, hint: str, wait: float = 0.0) -> None:
        super().__init__(message, hint)
        self.kind, self.wait = kind, wait


@dataclass(frozen=True)
class Opened:
    """An answer whose body has not been read. `headers` are the hub's own, of all its redirects."""

    response: httpx.Response
    headers: Mapping[str, str]


def endpoint() -> str:
    """The hub's address. HF_ENDPOINT, as every program of the hub has it."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def make_client(stall: float = 30.0) -> httpx.Client:
    """A client that gives up on a connection that says nothing for `stall` seconds."""
    headers = {"User-Agent": "werkbank", "Accept-Encoding": "identity"}
    return httpx.Client(timeout=httpx.Timeout(stall, connect=min(stall, 15.0)), headers=headers)


def api(
    path: str, token: str = "", query: Mapping[str, Any] | None = None, about: str = "",
    what: What = "model",
) -> Any:  # fmt: skip
    """The JSON that the hub answers on `path`. `about`: the name that is spoken of. HubError."""
    refuse_offline()
    url = f"{endpoint()}/{path}"
    try:
        with (
            make_client() as client,
            opened(client, url, token, about, query=query, what=what) as answer,
        ):
            body = bytearray()
            for piece in answer.response.iter_bytes():
                body += piece
                if len(body) > ANSWER_BYTES:
                    raise _strange(url)
            return httpx.Response(200, content=bytes(body)).json()
    except httpx.HTTPError as error:
        raise no_connection(error) from error
    except ValueError as error:
        raise _strange(url) from error


@contextmanager
def opened(
    client: httpx.Client,
    url: str,
    token: str = "",
    about: str = "",
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, Any] | None = None,
    what: What = "model",
) -> Iterator[Opened]:
    """GET `url`, redirects followed. Raises HubError for what is no success, httpx.HTTPError."""
    home = httpx.URL(endpoint())
    here, said = httpx.URL(url), httpx.Headers()
    if query:
        here = here.copy_merge_params(dict(query))
    for _ in range(HOPS):
        ours = _origin(here) == _origin(home)
        sent = dict(headers or {})
        if ours and token:
            sent["Authorization"] = f"Bearer {token}"
        with client.stream("GET", here, headers=sent, follow_redirects=False) as response:
            if ours:
                said.update(response.headers)
            if response.has_redirect_location:
                try:
                    here = here.join(response.headers["Location"])
                except httpx.InvalidURL:
                    raise _strange(url) from None
                if home.scheme == "https" and here.scheme != "https":
                    raise _strange(url)
                continue
            if not response.is_success:
                raise as_sentence(response, about, bool(token) and ours, what)
            yield Opened(response, said)
            return
    raise _strange(url)


def file_url(name: str, commit: str, path: str, what: What = "model") -> str:
    return f"{page_of(name, what, endpoint())}/resolve/{quote(commit, safe='')}/{quote(path)}"


def page_of(name: str, what: What = "model", at: str = "https://huggingface.co") -> str:
    """The address of its page, which those of its files begin with."""
    return f"{at}/datasets/{name}" if what == "dataset" else f"{at}/{name}"


def refuse_offline() -> None:
    """Raises HubError where the user told all programs of the hub to stay offline."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise HubError(
            "offline",
            "Werkbank was told to stay offline (HF_HUB_OFFLINE is set).",
            "What is on this machine works; start Werkbank without it to reach the hub.",
        )


def as_sentence(
    response: httpx.Response, about: str, with_token: bool, what: What = "model"
) -> HubError:
    """What a status that is no success means, said to people. `about`: the name of a `what`."""
    code = response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message", "")
    status, named = response.status_code, about or "what was asked for"
    if status == 429:
        return HubError(
            "busy",
            "The hub answers that too many requests came from here.",
            "Wait some minutes and go on, or set a token, which raises the limit.",
            _seconds(response),
        )
    if status >= 500 or status == 408:
        return HubError(
            "server",
            f"The hub has a problem of its own (it answered {status}).",
            "Try again later; what has come is kept.",
            _seconds(response),
        )
    if code == "GatedRepo":
        happened = f"{named} is gated: its owner wants its licence accepted first."
        return HubError("gated", happened, _gated_hint(page_of(about, what), with_token))
    if status == 401 and with_token and (code == "" or "credential" in said.lower()):
        return HubError(
            "token",
            "The hub does not accept the token: it has expired or was revoked.",
            f"Make a new one at {TOKENS} and put it in its place.",
        )
    if status == 403:
        return HubError(
            "token", f"The hub does not let {'this token' if with_token else 'you'} read {named}.",
            f"Make a token that may read it at {TOKENS}, or take another {what}.",
        )  # fmt: skip
    if code == "RevisionNotFound":
        happened = f"{named} has no such version on the hub (any more)."
        return HubError("revision", happened, ANEW)
    if code == "EntryNotFound":
        return HubError("missing", f"A file of {named} is not on the hub any more.", ANEW)
    if status in (401, 404, 410):
        happened = f"The hub has no {what} {named}, or it is private."
        hint = "Check how it is written; a private one needs a token."
        return HubError("missing", happened, hint)
    return HubError("server", f"The hub refused to answer ({status}).", "Try again later.")


def no_connection(error: httpx.HTTPError) -> HubError:
    """A connection that did not come about or broke, said to people."""
    if isinstance(error, httpx.TimeoutException):
        what = "The hub did not answer in time."
    elif isinstance(error, httpx.ConnectError | httpx.ProxyError):
        what = "The hub cannot be reached: this machine seems to be offline."
    else:
        what = "The connection to the hub broke."
    hint = "What is on this machine works as before; check the network, then try again."
    return HubError("offline", what, hint)


def _gated_hint(page: str, with_token: bool) -> str:
    if with_token:
        return f"Accept it at {page} with the account of your token, then start again."
    return f"Accept it at {page}, set a token of that account, then start again."


def _seconds(response: httpx.Response) -> float:
    """What Retry-After says, 0 where it says nothing. A date is passed over: clocks jump."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isdecimal() else 0.0


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _strange(url: str) -> HubError:
    return HubError(
        "server", f"What answers at {httpx.URL(url).host} does not speak like the hub.",
        "Check the network: a login page or a proxy may answer in its place.",
    )  # fmt: skip
