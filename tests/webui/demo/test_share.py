"""A demo from its start to its end, with a real server and a tunnel that ends here."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from backends.base import Refused
from tests.tunnelled import stand_ins
from tests.webui.demo.conftest import PHRASE
from webui.bench import Bench
from webui.demo.network import lan_address
from webui.demo.quota import Visitor
from webui.demo.share import Sharing
from webui.demo.state import Offer
from webui.demo.talk import ask, parameters, stop

Make = Callable[..., Offer]
Put = Callable[[str], Path]


@contextlib.asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Sharing]:
    others = psutil.Process().children()  # the server that other tests share, perhaps
    await bench.start()
    try:
        yield bench.sharing
    finally:
        await bench.stop()
        async with asyncio.timeout(10):
            # the workers are reaped, their pipes closed
            while set(psutil.Process().children()) - set(others):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)


async def settle(sharing: Sharing, seconds: float = 20) -> str:
    async with asyncio.timeout(seconds):
        while sharing.state == "starting":
            await asyncio.sleep(0.02)
    return sharing.state


async def until(sharing: Sharing, state: str, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while sharing.state != state:
            await asyncio.sleep(0.02)


def client(sharing: Sharing) -> httpx.AsyncClient:
    """A visitor's browser. Python does not resolve *.localhost, so the name goes in the header."""
    parts = urlsplit(sharing.full()["url"])
    local = (
        f"http://127.0.0.1:{parts.port}" if "localhost" in parts.netloc else sharing.full()["url"]
    )
    return httpx.AsyncClient(
        base_url=local, headers={"Host": parts.netloc}, trust_env=False, timeout=10
    )


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_from_the_start_to_the_stop(bench: Bench, offer: Make, tunnel_program: Put) -> None:
    tunnel_program("")

    async def life() -> None:
        async with started(bench) as sharing:
            assert sharing.brief() is None
            before = asyncio.all_tasks()
            sharing.begin(offer())
            with pytest.raises(Refused, match="shared already"):
                sharing.begin(offer())
            assert await settle(sharing) == "on", sharing.full()
            told = sharing.full()
            assert told["url"].startswith("http://") and told["passphrase"] == PHRASE
            assert told["qr"].startswith("data:image/svg+xml") and 7190 < told["seconds"] <= 7200
            assert sharing.demo
            port = inner_port(bench)
            async with client(sharing) as visitor:
                assert (await visitor.get("/")).status_code == 401
                entered = await visitor.post("/enter", data={"passphrase": PHRASE})
                assert entered.status_code == 303
                brief = sharing.brief()
                assert brief and (brief["visitors"], brief["messages"]) == (1, 0)
                beginning = time.monotonic()
                ending = asyncio.create_task(sharing.stop())
                await asyncio.sleep(0.1)
                assert (await visitor.get("/alive")).status_code == 410
                await ending
                assert time.monotonic() - beginning < 1.0
                with pytest.raises(httpx.HTTPError):
                    await visitor.get("/")
            assert not is_open(port) and not stand_ins() and sharing.brief() is None
            await asyncio.sleep(0.7)  # Gradio's queue looks whether it is over, at its own pace
            left = [t for t in asyncio.all_tasks() - before if "backends" not in repr(t)]
            assert left == []

    asyncio.run(life())


def inner_port(bench: Bench) -> int:
    ports = {c.laddr.port for c in psutil.Process().net_connections() if c.status == "LISTEN"}
    assert len(ports) == 1
    return int(ports.pop())


def test_the_time_is_over(bench: Bench, offer: Make, tunnel_program: Put) -> None:
    tunnel_program("")

    async def life() -> None:
        async with started(bench) as sharing:
            sharing.begin(offer(seconds=1))
            assert await settle(sharing) == "on"
            await until(sharing, "ended")
            assert "time was over" in sharing.full()["problem"] and sharing.full()["url"] == ""
            assert not stand_ins()
            await sharing.stop()
            assert sharing.brief() is None

    asyncio.run(life())


def test_a_dead_tunnel_is_told_and_can_be_made_again(
    bench: Bench, offer: Make, tunnel_program: Put
) -> None:
    tunnel_program("")

    async def life() -> None:
        async with started(bench) as sharing:
            sharing.begin(offer())
            assert await settle(sharing) == "on"
            first = sharing.full()["url"]
            for relay in stand_ins():
                relay.kill()
            await until(sharing, "failed")
            told = sharing.full()
            assert "tunnel has broken" in told["problem"] and "exit code -9" in told["detail"]
            sharing.again("tunnel")
            assert await settle(sharing) == "on"
            told = sharing.full()
            assert told["url"] != first and told["passphrase"] == PHRASE and told["seconds"] < 7200
            assert told["problem"] == told["detail"] == ""

    asyncio.run(life())
    assert not stand_ins()


def test_without_a_tunnel_the_local_network_is_the_way(
    bench: Bench, offer: Make, tunnel_program: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel_program("refused")
    # This machine may be in no network; another address of the loopback stands for one.
    monkeypatch.setattr("webui.demo.share.lan_address", lambda: "127.0.0.2")

    async def life() -> None:
        async with started(bench) as sharing:
            with pytest.raises(Refused):
                sharing.again("lan")
            sharing.begin(offer())
            assert await settle(sharing) == "failed"
            assert "refused the tunnel" in sharing.full()["problem"]
            assert sharing.full()["url"] == ""
            sharing.again("lan")
            assert await settle(sharing) == "on"
            assert sharing.full()["url"].startswith("http://127.0.0.2:")
            async with client(sharing) as visitor:
                assert (await visitor.get("/")).status_code == 401
                entered = await visitor.post("/enter", data={"passphrase": PHRASE})
                assert entered.status_code == 303 and "Secure" not in entered.headers["set-cookie"]
            assert not stand_ins()

    asyncio.run(life())


def test_a_start_can_be_cancelled(bench: Bench, offer: Make, tunnel_program: Put) -> None:
    tunnel_program("silent")

    async def life() -> None:
        async with started(bench) as sharing:
            sharing.begin(offer())
            async with asyncio.timeout(20):
                while not stand_ins():
                    await asyncio.sleep(0.02)
            await sharing.stop()
            assert sharing.state == "off"
            sharing.begin(offer(seconds=5))  # and at once another
            await sharing.stop()
            async with asyncio.timeout(5):
                while stand_ins():
                    await asyncio.sleep(0.02)

    asyncio.run(life())


def test_a_model_that_cannot_be_loaded_is_told(bench: Bench, offer: Make) -> None:
    async def life() -> None:
        async with started(bench) as sharing:
            made = offer()
            options = {**made.options, "fault": "refuse"}
            sharing.begin(Offer(**{**vars(made), "options": options}))
            assert await settle(sharing) == "failed"
            assert sharing.full()["problem"] == ("Echo was asked to refuse. Ask it something else.")

    asyncio.run(life())


async def answered(bench: Bench, visitor: Visitor, text: str) -> Any:
    assert bench.sharing.demo
    answer = ask(bench, bench.sharing.demo, visitor, text)
    async for live in answer.watch():
        if live.over:
            break
    return answer


def test_what_a_visitor_may_say(bench: Bench, offer: Make, tunnel_program: Put) -> None:
    tunnel_program("")

    async def life() -> None:
        async with started(bench) as sharing:
            adapters = [{"ref": "folder:mine", "weight": 0.5}]
            own = {"system": "Be brief.", "temperature": 0.0, "adapters": adapters}
            sharing.begin(offer(own, messages=3, characters=40, history=30, tokens=8))
            assert await settle(sharing) == "on"
            demo = sharing.demo
            assert demo and (visitor := demo.visitors.enter())
            for text, said in (("", "empty"), (" \n", "empty"), ("x" * 41, "41 characters")):
                with pytest.raises(Refused, match=said):
                    ask(bench, demo, visitor, text)
            assert visitor.used == 0
            first = await answered(bench, visitor, "one two three")
            assert first.state == "done" and "one two three" in first.text
            running = ask(bench, demo, visitor, "again please")
            with pytest.raises(Refused, match="still being written"):
                ask(bench, demo, visitor, "and this")
            stop(running)
            await asyncio.wait({running.task})  # type: ignore[arg-type]
            settings = parameters(demo, visitor)
            assert settings["max_new_tokens"] == 8
            assert {name: settings[name] for name in own} == own  # as the owner had it, adapter too
            assert settings["messages"][-1]["role"] == "user"
            assert sum(len(m["content"]) for m in settings["messages"][:-1]) <= 30
            await answered(bench, visitor, "the last one")
            with pytest.raises(Refused, match="used all 3 messages"):
                ask(bench, demo, visitor, "one more")
            assert (other := demo.visitors.enter())
            resident = bench.resident_of(demo.offer.listed)
            assert resident
            await bench.unload(resident)  # the owner needs the card: no guest loads it again
            with pytest.raises(Refused, match="not loaded at the moment"):
                ask(bench, demo, other, "hello")
            assert bench.resident_of(demo.offer.listed) is None and other.used == 0
            assert bench.store.conversations(10) == []
            await sharing.stop()
            assert not demo.visitors.known  # nothing of what was said stays in memory

    asyncio.run(life())


def test_an_answer_that_nobody_watches_is_stopped(
    bench: Bench, offer: Make, tunnel_program: Put
) -> None:
    tunnel_program("")

    async def life() -> None:
        async with started(bench) as sharing:
            sharing.begin(offer({"words": 1000, "words_per_second": 20}))
            assert await settle(sharing) == "on"
            assert sharing.demo and (visitor := sharing.demo.visitors.enter())
            answer = ask(bench, sharing.demo, visitor, "hello")
            async with asyncio.timeout(8):
                await asyncio.wait({answer.task})  # type: ignore[arg-type]
            assert answer.state == "stopped" and visitor.turns[0][1].startswith("hello hello")

    asyncio.run(life())


def test_the_owner_overtakes_a_waiting_guest(
    bench: Bench, offer: Make, tunnel_program: Put
) -> None:
    tunnel_program("")
    ended: list[str] = []

    async def owner(name: str, visitor: str) -> None:
        listed = bench.find("echo")
        params = {"words": 20, "words_per_second": 20.0}
        messages = {"messages": [{"role": "user", "content": name}]}
        async for _ in bench.generate(listed, params | messages, visitor):
            pass
        ended.append(name)

    async def life() -> None:
        async with started(bench) as sharing:
            sharing.begin(offer())
            assert await settle(sharing) == "on"
            assert sharing.demo and (visitor := sharing.demo.visitors.enter())
            first = asyncio.create_task(owner("first", "page:1"))
            await asyncio.sleep(0.3)
            guest = asyncio.create_task(answered(bench, visitor, "a guest"))
            await asyncio.sleep(0.2)
            assert visitor.answer and visitor.answer.status == "Busy: position 1"
            second = asyncio.create_task(owner("second", "page:1"))
            await asyncio.sleep(0.2)
            assert visitor.answer.status == "Busy: position 2"
            await asyncio.gather(first, second)
            assert "guest" not in visitor.answer.text
            assert (await guest).state == "done" and ended == ["first", "second"]

    asyncio.run(life())


def test_a_start_ends_the_tunnel_that_a_killed_page_has_left(bench: Bench) -> None:
    relay = psutil.Popen(["sleep", "60"])
    note = {"pid": relay.pid, "began": relay.create_time()}
    (bench.home / "tunnel.json").write_text(json.dumps(note))

    async def life() -> None:
        await bench.start()
        await bench.stop()

    asyncio.run(life())
    assert relay.wait(5) is not None


def test_the_local_network_never_means_every_network() -> None:
    with contextlib.suppress(Refused):
        address = ipaddress.ip_address(lan_address())
        assert not address.is_loopback and not address.is_unspecified
