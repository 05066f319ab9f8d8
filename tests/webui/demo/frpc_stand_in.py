"""Stands in for frpc: relays TCP, and prints what frpc prints. Or fails as frpc does.

WERKBANK_TEST_TUNNEL names the trouble; its name is on the list of what no worker minds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time

TROUBLE = os.environ.get("WERKBANK_TEST_TUNNEL", "")


def value(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]  # not argparse: the token may begin with "-"


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner, outer = await asyncio.open_connection(value("-i"), int(value("-l")))
    except OSError:
        return writer.close()
    await asyncio.gather(pipe(reader, outer), pipe(inner, writer))


async def main() -> None:
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = f"{secrets.token_hex(9)}.share.localhost"
    print("[I] login to server success", flush=True)
    print(f"[I] start proxy success: http://{name}:{port}", flush=True)
    if TROUBLE == "chatty":
        for _ in range(20_000):  # more than a pipe takes
            print("[W] " + 60 * "x", file=sys.stderr, flush=True)
    await server.serve_forever()


if TROUBLE == "refused":
    print("[E] login to server failed: too many tunnels today", flush=True)
    sys.exit(1)
if TROUBLE == "dies":
    print("segmentation violation", file=sys.stderr)
    sys.exit(3)
if TROUBLE == "silent":
    time.sleep(600)
if TROUBLE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
asyncio.run(main())
