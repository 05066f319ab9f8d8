"""The way in from outside: Gradio's tunnel, made, watched and ended by us.

`gradio.networking.setup_tunnel` asks Gradio's share service for a server, fetches the program frpc
at first use, starts it and waits for its address. Measured of gradio 6.31: it blocks; where frpc
dies without a word it spins for 30 s; afterwards nobody reads frpc's output (a full pipe stops it),
watches it, or ends it when the page is killed. So it runs in a thread of its own here, with limits,
and everything after is ours. What of Gradio's inside is used, `tests/webui/demo/test_tunnel.py`
watches.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import psutil

from backends.base import Refused
from backends.runtime.process import WINDOWS, start_flags

FETCH_SECONDS = 60.0  # for Gradio's share service and, the first time, the download of frpc
ANSWER_SECONDS = 20.0  # for frpc to say its address, once it runs
LAST_WORDS = 0.5  # seconds that what a dead frpc has said may still be read
END_SECONDS = 0.2  # between asking frpc to end and ending it
LOOK = 0.1  # seconds
KEPT_LINES = 20
PROTOCOL = "GRADIO_SHARE_SERVER_PROTOCOL"  # of an own share server; Gradio has no variable for it
LOCAL = "Share on the local network instead."


class Tail:
    """Reads a stream to its end in a thread, since a full pipe would stop the program."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        if stream:
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            for line in stream:
                self.lines.append(line.decode("utf-8", "replace").strip())


class Tunnel:
    """A running frpc and its address."""

    def __init__(
        self, url: str, process: subprocess.Popen[bytes], errors: Tail, note: Path
    ) -> None:
        self.url, self.process = url, process
        self.said = (Tail(process.stdout), errors)
        self.note = note
        self.dog = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")),
             str(process.pid)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **start_flags(),
        )  # fmt: skip

    @property
    def host(self) -> str:
        return (urlsplit(self.url).hostname or "").lower()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def why_it_ended(self) -> str:
        """Its exit and its last words, for the owner."""
        words = " ".join(line for tail in self.said for line in list(tail.lines)[-2:])
        return f"exit code {self.process.poll()}" + (f", {words[-300:]}" if words else "")

    async def close(self) -> None:
        """The address is dead when this returns."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        end_process(self.process)
        self.dog.kill()  # before its stdin ends: it must not look for the process any more
        self.dog.wait()
        if self.dog.stdin:
            self.dog.stdin.close()
        self.note.unlink(missing_ok=True)


async def open_tunnel(port: int, home: Path) -> Tunnel:
    """A public address for 127.0.0.1:`port`. Raises Refused with the reason and the cure.

    Closing is the caller's. A cancelled call leaves no process behind.
    """
    from gradio import networking, tunneling

    check_program(tunneling, own_server=networking.GRADIO_SHARE_SERVER_ADDRESS)
    # Gradio writes it into the working directory, the checkout.
    networking.CERTIFICATE_PATH = str(home / "werkbank-tmp" / "share-server.pem")
    token = secrets.token_hex(24)
    made = in_thread(lambda: networking.setup_tunnel("127.0.0.1", port, token, None, None))
    try:
        url, process, errors = await _until_made(made, tunneling, token)
    except BaseException:
        made.add_done_callback(lambda future: future.cancelled() or future.exception())
        # The thread may yet come to start frpc: it waits for a download, and cannot be ended.
        threading.Thread(target=_end_late, args=(made, tunneling, token), daemon=True).start()
        raise
    note = home / "tunnel.json"
    note.write_text(json.dumps({"pid": process.pid, "began": began(process.pid)}), "utf-8")
    return Tunnel(public(url, networking.GRADIO_SHARE_SERVER_ADDRESS), process, errors, note)


async def _until_made(
    made: asyncio.Future[str], tunneling: Any, token: str
) -> tuple[str, subprocess.Popen[bytes], Tail]:
    started, dead, errors = time.monotonic(), 0.0, Tail(None)
    limit, process = FETCH_SECONDS, None
    while not made.done():
        await asyncio.wait({made}, timeout=LOOK)
        now = time.monotonic()
        ours = find(tunneling, token)
        if ours is not None and process is None and ours.proc is not None:
            process, errors = ours.proc, Tail(ours.proc.stderr)
            started, limit = now, ANSWER_SECONDS
        if process is not None and process.poll() is not None and not made.done():
            dead = dead or now
            if now - dead > LAST_WORDS:
                words = " ".join(list(errors.lines)[-2:])[-300:]
                raise Refused(
                    f"The tunnel's program ended by itself (exit code {process.poll()}).",
                    f"Try again; if it stays so, look whether a virus scanner stops it. {LOCAL}",
                    words,
                )
        if now - started > limit and not made.done():
            raise too_slow(process is not None)
    try:
        url = made.result()
    except Exception as error:
        raise explain(error, str(tunneling.BINARY_PATH)) from error
    ours = find(tunneling, token)
    if ours is None or ours.proc is None:
        raise Refused("The tunnel was ended meanwhile.", "Share again.")
    if process is None:
        process, errors = ours.proc, Tail(ours.proc.stderr)
    release(tunneling, ours)
    return url, process, errors


def _end_late(made: asyncio.Future[str], tunneling: Any, token: str) -> None:
    """End the frpc of a call that was given up, now or when it comes to start."""
    deadline = time.monotonic() + 2 * FETCH_SECONDS
    while time.monotonic() < deadline:
        ours, over = find(tunneling, token), made.done()
        process = None if ours is None else ours.proc
        if ours is not None and (process or over):
            release(tunneling, ours)  # also ends Gradio's loop, which has no process any more
        if process:
            end_process(process)
            for stream in (process.stdout, process.stderr):
                Tail(stream)  # to their ends, then they are closed
        if process or over:
            return
        time.sleep(LOOK)


def in_thread(work: Callable[[], str]) -> asyncio.Future[str]:
    """Run it in a daemon thread: one of an executor would hold up the end of Python."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def settle(result: str | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result or "")

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return future


def find(tunneling: Any, token: str) -> Any:
    """Gradio's object for our call, once it has made it."""
    return next((t for t in list(tunneling.CURRENT_TUNNELS) if t.share_token == token), None)


def release(tunneling: Any, ours: Any) -> None:
    """Take the process away from Gradio: what ends it from now on is us."""
    atexit.unregister(ours.kill)
    with contextlib.suppress(ValueError):
        tunneling.CURRENT_TUNNELS.remove(ours)
    ours.proc = None


def end_process(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def public(url: str, own_server: str | None) -> str:
    """frpc says http; Gradio's servers speak https, an own server what it was set up for."""
    scheme = os.environ.get(PROTOCOL, "http") if own_server else "https"
    parts = urlsplit(url.strip())
    if not parts.hostname or scheme not in ("http", "https"):
        raise Refused(f"The tunnel's program told no address, but {url[:80]!r}.", LOCAL)
    return urlunsplit((scheme, parts.netloc, "/", "", ""))


def check_program(tunneling: Any, own_server: str | None) -> None:
    """Raises Refused where the frpc on this disk is not the one that Gradio published.

    Gradio looks at the checksum only after the download, so half a file stays for good. Whoever
    runs a share server brings the program for it too, and that one is not checked.
    """
    file, wanted = Path(tunneling.BINARY_PATH), tunneling.CHECKSUMS.get(tunneling.BINARY_URL)
    if own_server or not wanted or not file.is_file():
        return
    with file.open("rb") as handle:
        if hashlib.file_digest(handle, "sha256").hexdigest() != wanted:
            raise Refused(
                "The tunnel's program on this disk is not the one that Gradio published.",
                f"Delete {file} and share again: it is fetched anew.",
            )


def too_slow(runs: bool) -> Refused:
    if runs:
        return Refused(
            f"The tunnel's program said nothing for {ANSWER_SECONDS:.0f} s.",
            f"Try again later, or look whether a firewall stops it. {LOCAL}",
        )
    return Refused(
        f"Gradio's share service did not answer within {FETCH_SECONDS:.0f} s.",
        f"Look at the internet connection and try again. {LOCAL}",
    )


def explain(error: Exception, program: str) -> Refused:
    """Why Gradio could make no tunnel, and what to do about it."""
    import httpx
    from gradio.exceptions import ChecksumMismatchError

    detail = f"{type(error).__name__}: {error}"[-600:]
    if isinstance(error, ChecksumMismatchError):
        return Refused(
            "The tunnel's program was damaged on its way here.",
            f"Delete {program} and share again.", detail,
        )  # fmt: skip
    if isinstance(error, httpx.HTTPError):
        return Refused(
            "The tunnel's program is missing and could not be fetched.",
            f"Look at the internet connection and share again. {LOCAL}", detail,
        )  # fmt: skip
    if isinstance(error, RuntimeError):
        return Refused(
            "Gradio's share service could not be reached.",
            f"Look at the internet connection and share again. {LOCAL}", detail,
        )  # fmt: skip
    if isinstance(error, FileNotFoundError):
        return Refused(
            f"The tunnel's program has vanished from {program}.",
            "A virus scanner may have removed it: allow it there and share again. " + LOCAL, detail,
        )  # fmt: skip
    if isinstance(error, OSError) and "platform is incompatible" in str(error):
        return Refused("Gradio has no tunnel program for this kind of computer.", LOCAL, detail)
    if isinstance(error, OSError):
        return Refused(
            f"The tunnel's program cannot be run ({error.strerror or 'blocked'}).",
            f"Delete {program} and share again; if it stays so, a virus scanner blocks it. {LOCAL}",
            detail,
        )
    if isinstance(error, ValueError) and "frpc" not in str(error):
        return Refused(
            "GRADIO_SHARE_SERVER_ADDRESS does not name a share server.",
            f"Set it to HOST:PORT, or unset it. {LOCAL}", detail,
        )  # fmt: skip
    if isinstance(error, ValueError):
        said = [line for line in str(error).splitlines()[1:] if line.strip()]
        reason = said[-1].partition("login to server failed: ")[2] if said else ""
        reason = reason or "without a reason"
        return Refused(
            f"The share server refused the tunnel ({reason[:160]}).",
            f"Try again in some minutes. {LOCAL}", detail,
        )  # fmt: skip
    return Refused("The tunnel could not be made.", f"Try again. {LOCAL}", detail)


def began(pid: int) -> float:
    """When a process was started, in seconds since 1970; with the number it names one for good."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def end_stale(home: Path) -> bool:
    """End the tunnel of a page that was killed, where its watchdog was killed too."""
    note = home / "tunnel.json"
    try:
        kept = json.loads(note.read_text("utf-8"))
        pid, since = int(kept["pid"]), float(kept["began"])
    except (OSError, ValueError, KeyError, TypeError):
        note.unlink(missing_ok=True)
        return False
    note.unlink(missing_ok=True)
    if not since or not psutil.pid_exists(pid) or abs(began(pid) - since) > (2 if WINDOWS else 1):
        return False
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).kill()
        return True
    return False
