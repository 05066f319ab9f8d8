"""The safetensors copy is made once, whole or not at all, whoever asks at the same time."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Refused
from backends.events import Event, Progress
from backends.models import gguf_copy
from tests.backends.models import crafted

# A stand-in for the 20 seconds of converting, in a process of its own: it notes that it began,
# takes a while, and writes a real safetensors file.
MAKER = """
import os, resource, sys, time
from pathlib import Path
import numpy, safetensors.numpy
from backends.base import Refused
from backends.models import gguf_copy

gguf, cache, log, seconds, limit = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *map(
    float, sys.argv[4:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

def convert(gguf, folder):
    with log.open("a") as file:
        file.write("made\\n")
    folder.mkdir()
    yield
    time.sleep(seconds)
    data = {"w": numpy.zeros(300_000, "float32")}
    safetensors.numpy.save_file(data, folder / "model.safetensors")

gguf_copy._convert = convert
try:
    print(gguf_copy.ensure(gguf, cache, print, lambda: False), flush=True)
except Refused as refused:
    print("refused:", refused)
"""


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(crafted.gguf())
    return path


def start(gguf: Path, seconds: float = 0.0, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, gguf, gguf.parent / "cache", gguf.parent / "log",
               seconds, limit]  # fmt: skip
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)


def quickly(gguf: Path, folder: Path) -> Iterator[None]:
    yield
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(crafted.safetensors())


def ensure(gguf: Path, told: list[Event] | None = None, stop: bool = False) -> Path:
    hear = told.append if told is not None else lambda event: None
    return gguf_copy.ensure(gguf, gguf.parent / "cache", hear, lambda: stop)


def test_two_processes_at_once_make_one_copy(gguf: Path) -> None:
    makers = [start(gguf, seconds=1.5) for _ in range(2)]
    answers = [maker.communicate(timeout=30)[0] for maker in makers]
    folder = gguf_copy.folder_of(gguf, gguf.parent / "cache")
    assert [a.splitlines()[-1] for a in answers] == [str(folder)] * 2
    assert (gguf.parent / "log").read_text() == "made\n"
    assert "another process is making" in "".join(answers)
    assert gguf_copy.is_whole(folder)


def test_a_maker_that_is_killed_leaves_nothing_that_counts(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, log = start(gguf, seconds=60), gguf.parent / "log"
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    folder = gguf_copy.folder_of(gguf, gguf.parent / "cache")
    assert not gguf_copy.is_whole(folder) and not folder.exists()
    monkeypatch.setattr(gguf_copy, "_convert", quickly)
    started = time.monotonic()
    assert gguf_copy.is_whole(ensure(gguf)) and time.monotonic() - started < 2
    assert {p.suffix for p in folder.parent.iterdir()} == {"", ".lock"}


def test_a_full_disk_is_a_sentence_and_leaves_nothing(gguf: Path) -> None:
    # The limit on file sizes reaches the native writer as a full disk does.
    answer = start(gguf, limit=500_000).communicate(timeout=30)[0].splitlines()[-1]
    assert answer.startswith("refused: The safetensors copy needs about 600 MB")
    assert "WERKBANK_CACHE" in answer
    folder = gguf_copy.folder_of(gguf, gguf.parent / "cache")
    assert {p.suffix for p in folder.parent.iterdir()} == {".lock"}


def test_too_little_room_is_said_before_the_work(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1_000_000))
    with pytest.raises(Refused, match="needs 50 MB, and 1 MB are free"):
        ensure(gguf)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_a_sentence(gguf: Path) -> None:
    (gguf.parent / "cache").mkdir(mode=0o500)
    with pytest.raises(Refused, match="cannot be written"):
        ensure(gguf)


def test_a_damaged_copy_is_made_again(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_copy, "_convert", quickly)
    told: list[Event] = []
    folder = ensure(gguf, told)
    assert isinstance(told[0], Progress) and "once" in told[0].note
    ensure(gguf, told)
    assert len(told) == 1  # the second time there was nothing to do
    (folder / "model.safetensors").write_bytes(b"cut")
    assert not gguf_copy.is_whole(folder)
    assert gguf_copy.is_whole(ensure(gguf, told)) and len(told) == 2


def test_another_source_has_another_copy(gguf: Path) -> None:
    cache = gguf.parent / "cache"
    before = gguf_copy.folder_of(gguf, cache)
    gguf.write_bytes(crafted.gguf({"general.name": "changed"}))
    assert gguf_copy.folder_of(gguf, cache) != before


def test_it_can_be_stopped(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_copy, "_convert", quickly)
    with pytest.raises(Refused, match="was stopped"):
        ensure(gguf, stop=True)
    assert not gguf_copy.is_whole(gguf_copy.folder_of(gguf, gguf.parent / "cache"))
