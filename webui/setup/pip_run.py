"""One run of pip, told to a person line by line, with everything it said in a log file."""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from webui.setup.pins import normal
from webui.setup.talk import SetupFailed, Talk, clock, size

_FETCHED = re.compile(r"\s*(?:Downloading|Using cached) (\S+?)(?: \(([\d.]+ [kMG]B)\))?$")
_LOCAL = re.compile(r"\s*Processing (.+?)(?: \(from .*\))?$")
_PRESENT = re.compile(r"Requirement already satisfied: ([A-Za-z0-9._-]+)")
_ARCHIVE = re.compile(r"(.+?)-(\d[^-]*?)(?:-.*)?\.(?:whl|tar\.gz|zip)$")
_UNREACHED = (
    "NewConnectionError", "Failed to establish a new connection", "NameResolutionError",
    "Temporary failure in name resolution", "Name or service not known", "getaddrinfo failed",
    "nodename nor servname", "Network is unreachable", "ConnectTimeoutError", "Read timed out",
    "ReadTimeoutError", "ProxyError", "SSLError", "Connection reset", "Connection aborted",
    "RemoteDisconnected", "IncompleteRead", "ConnectionError", "HTTP error 5",
)  # fmt: skip
_FULL = ("No space left on device", "Errno 28", "WinError 112", "Errno 122", "Disk quota exceeded")
_FORBIDDEN = ("Permission denied", "Errno 13", "WinError 5]", "Read-only file system")


class Progress:
    """Turns pip's lines into ours: `12 of about 101  torch 2.14.1 (555 MB)`.

    One object goes through several runs, so that the count goes on. `about` 0: nothing is counted.
    """

    def __init__(self, about: int = 0) -> None:
        self.about = about
        self.seen: set[str] = set()
        self.doing = "asking the package index"
        self.installing: list[str] = []
        self.started = time.monotonic()

    def read(self, line: str) -> str:
        """What a person should be told of this line; empty for nothing."""
        line = line.rstrip()
        if match := _PRESENT.match(line):
            self.seen.add(normal(match[1]))
        elif match := _FETCHED.match(line):
            return self._package(match[1], match[2] or "")
        elif match := _LOCAL.match(line):
            return self._package(match[1], _file_size(match[1]))
        elif line.startswith("Collecting "):
            self.doing = f"looking for {line.split()[1]}"
        elif line.startswith("Installing collected packages: "):
            self.installing = [normal(n) for n in line.partition(": ")[2].split(", ")]
        elif "Building wheel for " in line and line.endswith("started"):
            self.doing = f"building {line.split()[3]}"
        elif line.startswith("WARNING: Retrying (Retry(total=4"):
            return "The package index does not answer. Trying again, up to five times."
        return ""

    def _package(self, place: str, how_large: str) -> str:
        match = _ARCHIVE.match(re.split(r"[/\\]", place)[-1])
        if match is None:  # a folder, or only the metadata of a package
            return ""
        name = normal(match[1])
        self.seen.add(name)
        text = f"{name} {match[2]}" + (f" ({how_large})" if how_large else "")
        self.doing = f"downloading {text}"
        if not self.about:
            return text
        self.about = max(self.about, len(self.seen))
        return f"{len(self.seen):>3} of about {self.about}  {text}"


def _file_size(path: str) -> str:
    try:
        return size(os.stat(path).st_size)
    except OSError:
        return ""


class Pip:
    """The pip of one Python.

    `site` is the folder that fills while it installs, `temp` where it keeps its downloads until
    then (None: the system's own), `lock` a file descriptor that pip keeps open, so that the lock
    outlives a killed parent.
    """

    def __init__(
        self, python: str, site: Path, log: TextIO, talk: Talk,
        *, temp: Path | None = None, lock: int | None = None, cache: bool = True,
    ) -> None:  # fmt: skip
        self.python, self.site, self.log, self.talk = python, site, log, talk
        self.temp, self.lock, self.cache = temp, lock, cache
        self.interrupted = False

    def install(
        self, requirements: tuple[str, ...], progress: Progress, options: tuple[str, ...] = ()
    ) -> None:
        """Install, and wait for it. Raises SetupFailed with what went wrong."""
        command = [self.python, "-m", "pip", "install", "--no-input", "--progress-bar=off"]
        command += ["--disable-pip-version-check", *options]
        command += [] if self.cache else ["--no-cache-dir"]
        tail: list[str] = []
        code = self._run([*command, *requirements], progress, tail)
        if code:
            raise explain(tail, requirements, code, self.log.name)

    def _run(self, command: list[str], progress: Progress, tail: list[str]) -> int:
        self.log.write(f"\n$ {subprocess.list2cmdline(command)}\n")
        progress.installing = []
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self._environment(), text=True, encoding="utf-8", errors="replace",
            pass_fds=() if self.lock is None or sys.platform == "win32" else (self.lock,),
        )  # fmt: skip
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            for line in _lines(process):
                if self.interrupted:  # the exception was raised where Python can only print it
                    raise KeyboardInterrupt
                if line is None:
                    self._tick(progress)
                    continue
                self.log.write(line)
                tail.append(line.strip())
                del tail[:-200]
                if told := progress.read(line):
                    self.talk.line(f"  {told}")
                self._tick(progress)
            return process.wait()
        finally:  # Ctrl-C reaches pip as well: it only needs a moment
            signal.signal(signal.SIGINT, before)
            if process.poll() is None:
                process.terminate()
                process.wait()
            self.log.flush()

    def _interrupt(self, number: int, frame: object) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PIP_USER": "0"}
        if self.temp is not None:  # /tmp is often a small RAM disk: three gigabytes do not fit
            self.temp.mkdir(parents=True, exist_ok=True)
            own["TMPDIR"] = str(self.temp)
        return os.environ | own

    def _tick(self, progress: Progress) -> None:
        if progress.installing:
            there = _distributions(self.site)
            missing = [name for name in progress.installing if name not in there]
            done, total = len(progress.installing) - len(missing), len(progress.installing)
            doing = f"unpacking {done} of {total}" + (f": {missing[0]}" if missing else "")
        else:
            doing = progress.doing
            if self.temp is not None and (arrived := _arriving(self.temp)) > 1e6:
                doing += f", {size(arrived)} so far"
        self.talk.status(f"  ... {doing}, {clock(time.monotonic() - progress.started)}")


def _lines(process: subprocess.Popen[str], every: float = 0.5) -> Iterator[str | None]:
    """The lines of a process, and None after each `every` seconds without one."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    stream = process.stdout

    def pump() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=every)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _distributions(site: Path) -> set[str]:
    """The packages in a site-packages folder, by the file that pip writes last of each."""
    return {normal(p.parent.name.split("-")[0]) for p in site.glob("*.dist-info/INSTALLER")}


def _arriving(temp: Path) -> int:
    """The size of the download that grows just now, in bytes."""
    files = list(temp.glob("pip-unpack-*/*"))
    try:
        newest = max((f.stat() for f in files), key=lambda s: s.st_mtime, default=None)
    except OSError:  # it has just been moved
        return 0
    return newest.st_size if newest and time.time() - newest.st_mtime < 5 else 0


def explain(lines: list[str], requirements: tuple[str, ...], code: int, log: str) -> SetupFailed:
    """What a failed pip means, as two sentences. `lines` is the end of what it said."""
    text = "\n".join(lines)
    lacking = re.search(r"No matching distribution found for (\S+)", text)
    what = lacking[1] if lacking else requirements[0]
    if any(word in text for word in _FULL):
        return SetupFailed(
            f"The disk became full before {what} was installed.",
            f"Free some space, then continue with: {repeat_command()}",
        )
    if any(word in text for word in _UNREACHED):
        return SetupFailed(
            f"The package index cannot be reached, and {what} is still missing.",
            f"Connect this machine to the network, then continue with: {repeat_command()}",
        )
    if lacking:
        python = ".".join(map(str, sys.version_info[:2]))
        return SetupFailed(
            f"There is no {what} for Python {python} on this computer.",
            f"Start with another Python (3.11 is the surest), or see why in {log}",
        )
    if any(word in text for word in _FORBIDDEN):
        return SetupFailed(
            f"Set-up may not write here, so {what} was not installed.",
            f"Start it as the owner of this folder, or copy the folder to your home. ({log})",
        )
    last = next((line[7:200] for line in reversed(lines) if line.startswith("ERROR: ")), "")
    reason = f"pip ended with exit code {code}" + (f": {last}" if last else "")
    return SetupFailed(f"{reason.rstrip('.')}.", f"See {log}, then repeat: {repeat_command()}")


def repeat_command() -> str:
    """What to type to continue."""
    words = [Path(sys.executable).name.removesuffix(".exe"), *sys.argv]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
