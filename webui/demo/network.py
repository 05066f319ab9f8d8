"""The demo's socket and its server, in the loop of the page's own server."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator

import psutil
import uvicorn
from starlette.types import ASGIApp

from backends.base import Refused

PORT = 7870  # or any free one; the same each time, since a firewall may have let it through
START_SECONDS = 10.0


class QuietServer(uvicorn.Server):
    """The signals belong to the page's server; this one is ended by `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve while inside. On leaving, the port is closed and every connection is cut."""
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=0,
        proxy_headers=False,
    )
    server = QuietServer(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(START_SECONDS):
            while not server.started:
                if task.done():
                    raise Refused("The demo's own server could not start.", "Share again.")
                await asyncio.sleep(0.02)
        yield
    finally:
        for each in getattr(server, "servers", []):
            each.close()  # at once: uvicorn looks only every 100 ms
        listener.close()
        server.should_exit = True
        await asyncio.wait({task}, timeout=5)
        for connection in list(server.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.abort()


def listen(host: str) -> socket.socket:
    """A socket on the demo's port, or on any free one. Raises Refused."""
    problem: OSError | None = None
    for port in (PORT, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if psutil.POSIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise Refused(f"No port can be opened on {host} ({problem}).", "Look at the firewall.")


def lan_address() -> str:
    """This computer's IPv4 address in the local network. Raises Refused where there is none.

    The one from which a packet would leave for the outside; nothing is sent.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1: nobody's
        if not ipaddress.ip_address(address := str(probe.getsockname()[0])).is_loopback:
            return address
    for cards in psutil.net_if_addrs().values():
        for card in cards:
            if card.family == socket.AF_INET and ipaddress.ip_address(card.address).is_private:
                if not ipaddress.ip_address(card.address).is_loopback:
                    return card.address
    raise Refused("This computer is in no local network.", "Connect it to one, then share again.")
