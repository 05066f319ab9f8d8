"""The process that downloads one model or dataset:   python -m backends.models.fetch

Stdin: one line {"id": 1, "what", "name", "revision", "commit", "choice"}, and then nothing; its
end means that who asked is gone or wants a pause, and the process ends at once. What has come
stays, and the next process goes on from there. Stdout, a JSON object a line
(`backends/runtime/frames.py`):

    {"id": 1, "say": "plan", "commit", "bytes", "done", "choice", "ref", "shared"}   it was asked
    {"id": 1, "say": "progress", "done", "speed", "file", "note"}   four a second at most
    {"id": 1, "say": "done", "ref"}
    {"id": 1, "say": "failed", "kind", "message", "hint"}

The token comes as HF_TOKEN in the environment. The hub is asked for a commit once, and every file
is taken from that commit; each is checked against the hash that the hub gave for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from backends.base import Refused
from backends.models import data_cache, hub, hub_http, library
from backends.models.gguf_copy import FULL_DISK
from backends.models.hub_http import ANEW, HubError
from backends.models.hub_store import RepoStore
from backends.models.partial import Partial
from backends.models.repo import Choice, Repo, RepoFile, What
from backends.runtime import frames

SPARE_BYTES = 256 * 2**20  # that a download leaves free on the disk
T = TypeVar("T")
TEST_PACE = "WERKBANK_TEST_FETCH_PACE"  # "stall,first,longest,tries" in seconds
TEST_SPARE = "WERKBANK_TEST_FETCH_SPARE"  # in place of SPARE_BYTES


@dataclass(frozen=True)
class Pace:
    """How patient: seconds without a byte until the connection is made anew, of the first pause
    after a fault (each is twice the one before) and of the longest, and how many faults in a row
    without one new byte are too many."""

    stall: float = 30.0
    first: float = 1.0
    longest: float = 60.0
    tries: int = 7

    @classmethod
    def from_environment(cls) -> Pace:
        given = os.environ.get(TEST_PACE, "")
        if not given:
            return cls()
        stall, first, longest, tries = given.split(",")
        return cls(float(stall), float(first), float(longest), int(tries))


class Say(Protocol):
    def __call__(self, say: str, **fields: Any) -> None: ...


class Meter:
    """Bytes that came over the network in the last seconds, by the monotonic clock."""

    SECONDS = 8.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seen: deque[tuple[float, int]] = deque([(clock(), 0)])
        self.total = 0

    def add(self, count: int) -> None:
        self.total += count
        now = self.clock()
        self.seen.append((now, self.total))
        while len(self.seen) > 2 and self.seen[0][0] < now - self.SECONDS:
            self.seen.popleft()

    def speed(self) -> float:
        """Bytes a second; 0 in the first moments."""
        then, count = self.seen[0]
        seconds = self.clock() - then
        return (self.total - count) / seconds if seconds > 0.2 else 0.0


class Fetch:
    """One download. `run` returns when every file is there and checked, or raises HubError."""

    def __init__(
        self, cache: Path, token: str, say: Say, pace: Pace | None = None, spare: int = SPARE_BYTES
    ) -> None:
        self.cache, self.token, self.say, self.spare = cache, token, say, spare
        self.pace = pace or Pace()
        self.client = hub_http.make_client(self.pace.stall)
        self.meter = Meter()
        self.done = 0
        self.said = 0.0

    def run(
        self, name: str, revision: str, commit: str, choice_id: str, what: What = "model"
    ) -> str:
        """The reference of what was downloaded. `commit` is "" for the first time."""
        with self.client:
            return self._run(name, revision, commit, choice_id, what)

    def _run(self, name: str, revision: str, commit: str, choice_id: str, what: What) -> str:
        repo = self._asked(name, revision, commit, what)
        choice = repo.choice(choice_id)
        store = RepoStore(self.cache, name, what)
        self.done = sum(store.have(repo.commit, file) for file in choice.files)
        ref = str(choice.ref(name, revision))
        self.say("plan", commit=repo.commit, bytes=choice.bytes, done=self.done,
                 choice=choice.id, ref=ref,
                 shared=store.has_others(repo.commit, choice.files))  # fmt: skip
        self._check_room(choice, what)
        if what == "dataset":
            data_cache.note(repo)
        for file in choice.files:
            try:
                self._one(store, repo, file)
            except OSError as error:
                raise disk_error(error, self.cache) from error
        store.write_ref(revision, repo.commit)
        return ref

    def _asked(self, name: str, revision: str, commit: str, what: What) -> Repo:
        """The page, at the commit with which this download began."""
        asked = commit or revision
        found = self._patient(lambda: hub.read_repo(name, asked, self.token, what), "")
        if commit and found.commit != commit:
            raise _changed(name)
        return found

    def _check_room(self, choice: Choice, what: What) -> None:
        """Raises HubError where the rest of the download would not fit on the disk."""
        self.cache.mkdir(parents=True, exist_ok=True)
        need = choice.bytes - self.done
        free = shutil.disk_usage(self.cache).free - self.spare
        if need > free:
            raise HubError(
                "full",
                f"The rest of this {what} needs {_size(need)}, and {_size(max(free, 0))} can be "
                f"used on the disk of {self.cache}.",
                "Delete what you do not need, then go on; what has come is kept.",
            )

    # One file

    def _one(self, store: RepoStore, repo: Repo, file: RepoFile) -> None:
        if store.has(repo.commit, file):
            return

        def waiting() -> None:
            self._tell(file, "Another program downloads this file: waiting for it.")

        with store.alone(file, waiting):
            if not store.has_blob(file):
                self._bring(store, repo, file)
            store.settle(repo.commit, file)

    def _bring(self, store: RepoStore, repo: Repo, file: RepoFile) -> None:
        """The whole file into its partial, checked. Goes on where an earlier one ended."""
        with Partial(store.partial(file), file) as partial:
            partial.take_up(lambda: self._tell(file, "Checking what is already here."))
            self._patient(lambda: self._stream(repo, partial), file.path)
            whole = partial.finish()
        if not whole:
            store.partial(file).unlink()
            self.done -= partial.bytes
            raise HubError(
                "damaged",
                f"{file.path} came damaged: it is not what the hub says that it has.",
                "It was removed; start the download again, which fetches this one file anew.",
            )
        store.keep(file)

    def _stream(self, repo: Repo, partial: Partial) -> None:
        """From where the partial ends to the end of the file, over one connection."""
        file, have = partial.file, partial.bytes
        if have == file.bytes:
            return
        url = hub_http.file_url(repo.name, repo.commit, file.path, repo.what)
        headers = {"Range": f"bytes={have}-"} if have else {}
        with hub_http.opened(
            self.client, url, self.token, repo.name, headers, what=repo.what
        ) as answer:
            _check_same(answer.headers, repo, file)
            if have and not _goes_on(answer.response, have):  # it sends from the beginning
                partial.restart()
                self.done -= have
            for piece in answer.response.iter_raw():
                if partial.bytes + len(piece) > file.bytes:
                    raise _changed(repo.name)
                before = partial.bytes
                try:
                    partial.add(piece)
                finally:
                    self.done += partial.bytes - before
                self.meter.add(len(piece))
                self._tell(file)
        if partial.bytes < file.bytes:
            raise HubError("offline", "The connection to the hub broke.", "Try again.")

    # Patience

    def _patient(self, step: Callable[[], T], path: str) -> T:
        """Do it; after a fault that may pass, again, a little later each time."""
        faults, pause, mark = 0, self.pace.first, self.meter.total
        while True:
            try:
                return step()
            except httpx.HTTPError as error:
                fault = hub_http.no_connection(error)
            except HubError as error:
                if error.kind not in hub_http.AGAIN or os.environ.get("HF_HUB_OFFLINE") == "1":
                    raise
                fault = error
            if self.meter.total > mark:  # something came in between
                faults, pause, mark = 0, self.pace.first, self.meter.total
            faults += 1
            # Where nothing ever came, the machine is offline: that is told in seconds.
            never = fault.kind == "offline" and self.meter.total == 0
            if faults >= (min(3, self.pace.tries) if never else self.pace.tries):
                raise fault
            seconds = max(pause, fault.wait)
            self.say("progress", done=self.done, speed=0, file=path,
                     note=f"{fault.message} Trying again in {seconds:.0f} s.")  # fmt: skip
            time.sleep(seconds)
            pause = min(2 * pause, self.pace.longest)

    def _tell(self, file: RepoFile, note: str = "") -> None:
        now = time.monotonic()
        if now - self.said >= 0.25:
            self.said = now
            speed = 0 if note else int(self.meter.speed())
            self.say("progress", done=self.done, speed=speed, file=file.path, note=note)


def _check_same(said: Mapping[str, str], repo: Repo, file: RepoFile) -> None:
    """Raises HubError where the hub serves another version than it listed."""
    commit = said.get("X-Repo-Commit", repo.commit)
    etag = said.get("X-Linked-Etag") or said.get("ETag") or file.etag
    if commit != repo.commit or etag.removeprefix("W/").strip('"') != file.etag:
        raise _changed(repo.name)


def _goes_on(response: httpx.Response, have: int) -> bool:
    """Whether the answer begins where we stopped."""
    said = response.headers.get("Content-Range", "")
    return response.status_code == 206 and said.startswith(f"bytes {have}-")


def _changed(name: str) -> HubError:
    what = f"{name} was changed on the hub while it was being downloaded."
    return HubError("changed", what, ANEW)


def disk_error(error: OSError, cache: Path) -> HubError:
    """A write that did not work, said to people."""
    if error.errno in FULL_DISK:
        return HubError(
            "full",
            f"The disk of {cache} is full.",
            "Free some space, then go on; what has come is kept.",
        )
    return HubError(
        "disk",
        f"{cache} cannot be written ({error.strerror}).",
        "Make it writable, or set HF_HOME to another folder.",
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(count, 0) / 1e6:.0f} MB"


def main() -> None:
    token = os.environ.pop("HF_TOKEN", "")
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints goes to the log
    asked = frames.decode(sys.stdin.buffer.readline(frames.TO_PAGE_BYTES))
    threading.Thread(target=_leave_with_the_page, daemon=True).start()

    def say(say: str, **fields: Any) -> None:
        out.write(frames.encode({"id": asked["id"], "say": say, **fields}, frames.TO_PAGE_BYTES))

    spare = int(os.environ.get(TEST_SPARE, SPARE_BYTES))
    fetch = Fetch(library.hub_cache(), token, say, Pace.from_environment(), spare)
    try:
        names = ("name", "revision", "commit", "choice")
        name, revision, commit, choice = (str(asked[key]) for key in names)
        what: What = "dataset" if asked.get("what") == "dataset" else "model"
        say("done", ref=fetch.run(name, revision, commit, choice, what))
    except Refused as refused:
        kind = refused.kind if isinstance(refused, HubError) else "missing"
        say("failed", kind=kind, message=refused.message, hint=refused.hint)
    except OSError as error:
        fault = disk_error(error, fetch.cache)
        say("failed", kind=fault.kind, message=fault.message, hint=fault.hint)


def _leave_with_the_page() -> None:
    """Every byte that came is in its file already: nothing is lost by leaving at once."""
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
