"""The tunnel: what of Gradio's inside is used, every way it can fail, and its end."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from gradio import networking, tunneling

from backends.base import Refused
from tests.tunnelled import stand_ins
from webui.demo import tunnel
from webui.demo.tunnel import end_stale, open_tunnel

Put = Callable[[str], Path]
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens there


def test_what_is_used_of_gradios_inside_is_where_it_was() -> None:
    assert list(inspect.signature(networking.setup_tunnel).parameters) == [
        "local_host", "local_port", "share_token", "share_server_address",
        "share_server_tls_certificate",
    ]  # fmt: skip
    assert networking.GRADIO_API_SERVER.startswith("https://api.gradio.app/v3/")
    setup = inspect.getsource(networking.setup_tunnel)
    assert "share_server_tls_certificate = CERTIFICATE_PATH" in setup
    assert "GRADIO_SHARE_SERVER_ADDRESS" in setup
    assert tunneling.BINARY_URL in tunneling.CHECKSUMS or os.name != "posix"
    start = inspect.getsource(tunneling.Tunnel._start_tunnel)
    assert "CURRENT_TUNNELS.append(self)" in start and "atexit.register(self.kill)" in start
    assert "self.proc = subprocess.Popen" in start
    # Taking the process away ends its loop, which would otherwise spin for half a minute.
    read = inspect.getsource(tunneling.Tunnel._read_url_from_tunnel_stream)
    assert "assert self.proc is not None" in read
    assert "self.share_token = share_token" in inspect.getsource(tunneling.Tunnel)


def refused(home: Path) -> Refused:
    with pytest.raises(Refused) as failure:
        asyncio.run(open_tunnel(1, home))
    assert str(failure.value).count(". ") >= 1
    assert "local network" in str(failure.value) or "share again" in str(failure.value)
    assert not (home / "tunnel.json").exists()
    return failure.value


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_refused_tunnel_gives_the_servers_reason(home: Path, tunnel_program: Put) -> None:
    tunnel_program("refused")
    assert "refused the tunnel" in refused(home).message
    assert "too many tunnels today" in refused(home).message


def test_a_silent_death_is_seen_at_once_and_costs_no_core(home: Path, tunnel_program: Put) -> None:
    tunnel_program("dies")
    started, busy = time.monotonic(), time.process_time()
    problem = refused(home)
    assert "ended by itself (exit code 3)" in problem.message
    assert "segmentation violation" in problem.detail and "virus scanner" in problem.hint
    assert time.monotonic() - started < 5  # Gradio alone: 30 s at full load
    time.sleep(1)
    assert time.process_time() - busy < 2


def test_one_that_says_nothing_is_ended_in_time(
    home: Path, tunnel_program: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "ANSWER_SECONDS", 1.0)
    tunnel_program("silent")
    assert "said nothing for 1 s" in refused(home).message
    wait_for(lambda: not stand_ins())
    wait_for(lambda: not tunneling.CURRENT_TUNNELS)


def test_a_missing_program_without_a_network(
    home: Path, tunnel_program: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel_program("").unlink()
    monkeypatch.setattr(tunneling, "BINARY_URL", NOWHERE)
    assert "missing and could not be fetched" in refused(home).message


def test_a_program_that_vanished_or_may_not_run(home: Path, tunnel_program: Put) -> None:
    file = tunnel_program("")
    file.write_text("#!/nowhere/at/all\n")
    assert "has vanished" in refused(home).message
    file.write_bytes(b"half a program")
    assert "cannot be run" in refused(home).message
    file.chmod(0o600)
    problem = refused(home)
    assert "cannot be run" in problem.message and str(file) in problem.hint


def test_no_share_service_and_a_wrong_address_of_an_own_one(
    home: Path, tunnel_program: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel_program("").unlink()
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", None)
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", NOWHERE)
    assert "could not be reached" in refused(home).message
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "here")
    assert "GRADIO_SHARE_SERVER_ADDRESS" in refused(home).message


def test_gradios_servers_are_never_met_with_another_program(
    home: Path, tunnel_program: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tunnel_program("")
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", None)
    problem = refused(home)
    assert "not the one that Gradio published" in problem.message and str(file) in problem.hint
    assert not stand_ins()


@pytest.mark.parametrize("trouble", ["", "stubborn", "chatty"])
def test_an_open_tunnel_relays_and_leaves_nothing(
    home: Path, tunnel_program: Put, trouble: str
) -> None:
    tunnel_program(trouble)

    async def life() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            made = await open_tunnel(server.sockets[0].getsockname()[1], home)
            try:
                assert made.host.endswith(".share.localhost") and made.url.startswith("http://")
                assert json.loads((home / "tunnel.json").read_text())["pid"] == made.process.pid
                if trouble == "chatty":
                    await asyncio.sleep(2)  # Gradio alone: its program stands still, its pipe full
                local = made.url.replace(made.host, "127.0.0.1")
                async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                    assert (await client.get(local)).text == "hi"
            finally:
                started = time.monotonic()
                await made.close()
            assert time.monotonic() - started < 0.5 and not made.alive
            assert made.dog.poll() is not None and not tunneling.CURRENT_TUNNELS
            with pytest.raises(httpx.ConnectError):
                httpx.get(local, trust_env=False)

    asyncio.run(life())
    assert not (home / "tunnel.json").exists() and not stand_ins()


def test_a_cancelled_start_leaves_nothing(home: Path, tunnel_program: Put) -> None:
    tunnel_program("silent")

    async def cancel() -> None:
        task = asyncio.create_task(open_tunnel(1, home))
        while not stand_ins():
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(cancel())
    wait_for(lambda: not stand_ins())


def test_a_stale_tunnel_is_ended_and_a_stranger_is_not(home: Path) -> None:
    child = psutil.Popen(["sleep", "60"])
    note = home / "tunnel.json"
    try:
        note.write_text(json.dumps({"pid": child.pid, "began": child.create_time() - 100}))
        assert not end_stale(home) and child.is_running() and not note.exists()
        note.write_text("{broken")
        assert not end_stale(home)
        note.write_text(json.dumps({"pid": child.pid, "began": child.create_time()}))
        assert end_stale(home) and child.wait(5) is not None
    finally:
        if child.is_running():
            child.kill()
