"""The life of a demo: load, open, show, end. At most one at a time, `bench.sharing`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from backends.base import Refused
from backends.events import Failed, Progress
from webui.demo.network import lan_address, listen, serving
from webui.demo.quota import Visitors
from webui.demo.state import Demo, Offer, Where
from webui.demo.talk import stop as stop_answer
from webui.demo.tunnel import Tunnel, end_stale, open_tunnel

if TYPE_CHECKING:
    from webui.bench import Bench

# Between the word and the closed port, so that every visitor's page, which asks twice a second,
# hears of the end. Together with the closing it stays under the second that is promised.
FAREWELL = 0.6  # seconds
LOOK = 0.5  # seconds between two looks at the clock and at the tunnel
State = Literal["off", "starting", "on", "failed", "ended"]
OWNER = "Its owner has ended it."
TIME = "The demo has ended: its time was over."


class Sharing:
    """What the owner's side asks and tells. All methods belong to the event loop.

    `problem` and `detail` say why there is no address, `note` what a start is doing.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.state: State = "off"
        self.version = 0  # goes up with each change of `state`: what a watcher compares
        self.offer: Offer | None = None
        self.demo: Demo | None = None
        self.problem = self.detail = self.note = ""
        self.progress: Progress | None = None
        self._task: asyncio.Task[None] | None = None
        self._over: asyncio.Event = asyncio.Event()

    def clean(self) -> None:
        """End what a killed page has left behind."""
        if end_stale(self.bench.home):
            logging.getLogger(__name__).warning("ended the tunnel of an earlier page")

    def begin(self, offer: Offer) -> None:
        """Start; `state` tells how it goes. Raises Refused while another demo runs."""
        if self.state in ("starting", "on"):
            raise Refused("A demo is shared already.", "Stop that one first.")
        self.offer, self.demo = offer, None
        self._over = asyncio.Event()
        self.note = "Starting"
        self._become("starting")
        # In a context of its own: called by a handler of the page, Gradio would take the demo's
        # components for that handler's updates.
        self._task = asyncio.get_running_loop().create_task(
            self._live(offer), context=contextvars.Context()
        )

    def again(self, where: Where) -> None:
        """The same once more, where it failed: through a new tunnel, or in the local network."""
        if self.state != "failed" or self.offer is None:
            raise Refused("There is nothing to start again.", "Use Share… on the Chat tab.")
        seconds = self.demo.seconds_left if self.demo else self.offer.terms.seconds
        terms = replace(self.offer.terms, seconds=max(60, seconds))
        self.begin(replace(self.offer, where=where, terms=terms))

    async def stop(self) -> None:
        """The address is dead and the port closed when this returns; within a second."""
        task = self._task
        if self.state == "on":
            self._over.set()
        elif task:
            task.cancel()
        if task:
            await asyncio.wait({task})
        self.offer = self.demo = None
        self.problem = self.detail = ""
        self._become("off")

    async def _live(self, offer: Offer) -> None:
        try:
            await self._load(offer)
            ended = await self._shared(offer)
            self.problem = ended
            self._become("ended" if ended == TIME else "failed" if ended else "off")
        except asyncio.CancelledError:
            self._become("off")
            raise
        except Refused as refused:
            self.problem, self.detail = str(refused), refused.detail
            self._become("failed")
        except Exception as error:
            logging.getLogger(__name__).exception("sharing")
            self.problem = f"Sharing failed ({type(error).__name__}: {error}). Share again."
            self._become("failed")

    async def _load(self, offer: Offer) -> None:
        resident = self.bench.resident_of(offer.listed)
        if resident and resident.options == offer.options and resident.state in ("ready", "busy"):
            return
        self.note = f"Loading {offer.listed.title}"
        loading = self.bench.load(offer.listed, offer.options, "chat")
        async with contextlib.aclosing(loading.outcome()) as events:
            async for event in events:
                if isinstance(event, Progress):
                    self.progress = event
                elif isinstance(event, Failed):
                    raise Refused(event.message, event.hint, event.detail)
        self.progress = None

    async def _shared(self, offer: Offer) -> str:
        """From the opening of the port to its closing. Returns why it ended; "" for its owner."""
        from webui.demo.app import build_server

        local = offer.where == "lan"
        host = lan_address() if local else "127.0.0.1"
        demo = self.demo = Demo(offer, Visitors(offer.terms), proxied=not local)
        demo.hosts |= {host, "localhost"}
        listener = listen(host)
        port = listener.getsockname()[1]
        server, page = build_server(self.bench, demo)
        async with contextlib.AsyncExitStack() as open_now:
            open_now.callback(page._queue.close)
            # FastAPI's caches keep the app, for about 4 MB; what was said there must not stay too.
            open_now.callback(demo.visitors.known.clear)
            await open_now.enter_async_context(serving(server, listener))
            tunnel = None
            if local:
                demo.url = f"http://{host}:{port}/"
            else:
                self.note = "Opening the tunnel"
                tunnel = await open_tunnel(port, self.bench.home)
                open_now.push_async_callback(tunnel.close)
                demo.url, demo.scheme = tunnel.url, tunnel.url.partition(":")[0]
                demo.hosts.add(tunnel.host)
            demo.until = time.time() + offer.terms.seconds
            self._become("on")
            try:
                return await self._until_over(demo, tunnel)
            finally:
                self._dismiss(demo)
                await asyncio.sleep(FAREWELL)

    async def _until_over(self, demo: Demo, tunnel: Tunnel | None) -> str:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._over.wait()
            if self._over.is_set():
                return ""
            if time.time() >= demo.until:
                return TIME
            if tunnel and not tunnel.alive:
                self.detail = tunnel.why_it_ended()
                return (
                    "The tunnel has broken: its program ended, and the address no longer works. "
                    "Start it again (the address will be a new one), or share on the local network."
                )

    def _dismiss(self, demo: Demo) -> None:
        demo.ended = self.problem or OWNER
        for visitor in demo.visitors.known.values():
            if visitor.answer:
                stop_answer(visitor.answer)

    def _become(self, state: State) -> None:
        if state == "starting" or state == "on":
            self.problem = self.detail = ""
        self.state = state
        self.version += 1

    # What the owner's page reads

    def brief(self) -> dict[str, Any] | None:
        """What changes all the time, in the strip's poll; None, nearly always, for nothing."""
        if self.state == "off":
            return None
        demo = self.demo
        return {
            "version": self.version,
            "state": self.state,
            "seconds": demo.seconds_left if demo and self.state == "on" else None,
            "visitors": len(demo.visitors.known) if demo else 0,
            "here": demo.visitors.here if demo else 0,
            "messages": demo.visitors.messages if demo else 0,
        }

    def full(self) -> dict[str, Any]:
        """What the banner shows, the passphrase included: for the owner alone."""
        demo, offer = self.demo, self.offer
        url = demo.url if demo and self.state == "on" else ""
        return {
            **(self.brief() or {"version": self.version, "state": self.state}),
            "model": offer.listed.title if offer else "",
            "where": offer.where if offer else "",
            "passphrase": offer.passphrase if offer else "",
            "limit": offer.terms.messages if offer else 0,
            "url": url,
            "qr": qr_code(url) if url else "",
            "note": self.note,
            "problem": self.problem,
            "detail": self.detail,
        }


def qr_code(text: str) -> str:
    """A data: address of an SVG picture, black on white in the dark too: cameras want it so."""
    import segno

    code = segno.make(text, error="m", micro=False)
    return str(code.svg_data_uri(scale=4, border=3, dark="#000", light="#fff"))
