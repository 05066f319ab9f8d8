"""A worker by itself, over its pipes: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.runtime import frames
from backends.runtime.process import CHECKOUT

ECHO = {"do": "load", "backend": "echo", "model": "none:"}
# A torch of which the test says how much GPU memory it holds.
TORCH = """
import os
from pathlib import Path
class cuda:
    is_initialized = staticmethod(lambda: True)
    memory_reserved = staticmethod(lambda: int(Path(os.environ["WERKBANK_TEST_HELD"]).read_text()))
    empty_cache = staticmethod(lambda: None)
"""
NOISY = """
import os
print("printed", flush=True)
os.write(1, b"written\\n")
os.system("echo said by a child")
"""
# Echo, with something wrong in it: it takes the place of the real one when it is preloaded.
ODD = """
import backends
from backends.echo import Echo
from backends.events import Text
class Odd(Echo):
    def memory(self):
        raise KeyError("no such counter")
    def run(self, params):
        yield Text(params.messages[-1].content * (3_000_000 if params.words else 1))
backends.BACKENDS["echo"] = Odd
"""
SLOW_TO_READ = """
import threading, time
import backends
from backends.echo import Echo
class Slow(Echo):
    def memory(self):
        held = super().memory()
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.6)
        return held
backends.BACKENDS["echo"] = Slow
"""


class Talk:
    """A worker process, and the frames it sent so far."""

    def __init__(self, folder: Path, *arguments: str, module: str = "", **more: str) -> None:
        folder.joinpath("odd_module.py").write_text(module)
        path = os.pathsep.join((str(CHECKOUT), str(folder)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backends.worker", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path} | more, cwd=folder,
        )  # fmt: skip

    def send(self, number: int, frame: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": number, **frame}).encode() + b"\n")
        self.process.stdin.flush()

    def say(self, number: int, text: str = "a b c d", **more: Any) -> None:
        params = {"messages": [{"role": "user", "content": text}], **more}
        self.send(number, {"do": "run", "params": params})

    def frames(self) -> Iterator[dict[str, Any]]:
        """All of them, as they come. What is no frame fails the test."""
        assert self.process.stdout
        for line in self.process.stdout:
            yield frames.decode(line)

    def answer(self, number: int) -> dict[str, Any]:
        """The last event of a call."""
        for frame in self.frames():
            if frame["id"] == number and frame["event"] in ("Done", "Failed"):
                return frame
        raise AssertionError(f"no answer to {number}: {self.rest()}")

    def rest(self) -> str:
        """Wait for its end; what it wrote to its log."""
        assert self.process.stdin and self.process.stderr
        if not self.process.stdin.closed:
            self.process.stdin.close()
        log = self.process.stderr.read().decode()
        self.process.wait(20)
        return log


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Any]:
    started: list[Talk] = []

    def start(*arguments: str, **more: str) -> Talk:
        started.append(Talk(tmp_path, *arguments, **more))
        return started[-1]

    yield start
    for talk in started:
        with talk.process:  # closes its pipes
            talk.process.kill()


def test_what_libraries_print_goes_to_the_log_and_not_between_the_frames(talk: Any) -> None:
    worker = talk("--preload", "odd_module", module=NOISY)
    worker.send(1, ECHO)
    assert worker.answer(1)["event"] == "Done"
    log = worker.rest()
    assert [said for said in ("printed", "written", "said by a child") if said not in log] == []


def test_a_gpu_error_is_answered_and_then_it_ends_with_87(talk: Any) -> None:
    worker = talk()
    worker.send(1, ECHO)
    worker.say(2, fault="cuda")
    seen = list(worker.frames())  # until it is gone
    assert [f for f in seen if f.get("say") == "leaving"] == [
        {"id": 0, "say": "leaving", "code": 87}
    ]
    assert seen[-1]["event"] == "Failed" and "GPU reported an error" in seen[-1]["message"]
    assert worker.process.wait(5) == 87


@pytest.mark.parametrize(("held_after", "code"), [(10**9, 88), (10**8, 0)])
def test_out_of_memory_ends_it_with_88_only_where_the_memory_did_not_come_back(
    talk: Any, tmp_path: Path, held_after: int, code: int
) -> None:
    held = tmp_path / "held"
    held.write_text("0")
    (tmp_path / "torch.py").write_text(TORCH)
    worker = talk("--preload", "torch", WERKBANK_TEST_HELD=str(held))
    worker.send(1, ECHO)
    assert worker.answer(1)["usage"]["memory"]["cuda_bytes"] == 0
    held.write_text(str(held_after))
    worker.say(2, fault="oom")
    failed = worker.answer(2)
    assert "not enough memory" in failed["message"]
    if not code:
        worker.say(3)
        assert worker.answer(3)["event"] == "Done"
        worker.rest()
    assert worker.process.wait(5) == code


def test_a_process_that_holds_the_gil_ends_itself(talk: Any) -> None:
    worker = talk("--hung", "2")
    worker.send(1, ECHO)
    assert worker.answer(1)["event"] == "Done"
    started = time.monotonic()
    worker.say(2, fault="hang", fault_at=0)
    assert worker.process.wait(15) == 1
    assert 1.0 < time.monotonic() - started
    assert "Timeout" in worker.rest()


def test_one_that_is_idle_for_longer_than_that_stays(talk: Any) -> None:
    worker = talk("--hung", "1.5")
    worker.send(1, ECHO)
    assert worker.answer(1)["event"] == "Done"
    time.sleep(2.5)
    worker.say(2)
    assert worker.answer(2)["event"] == "Done"


def test_a_backend_that_cannot_say_what_it_holds_does_not_end_the_beats(talk: Any) -> None:
    worker = talk("--preload", "odd_module", module=ODD)
    worker.send(1, ECHO)
    assert worker.answer(1)["usage"]["memory"]["rss_bytes"] > 0
    beats: list[dict[str, Any]] = []
    for frame in worker.frames():
        beats += [frame] if frame.get("say") == "beat" else []
        if len(beats) == 3:
            break
    assert all(beat["memory"]["rss_bytes"] > 0 for beat in beats)
    assert worker.rest().count("KeyError: 'no such counter'") == 1  # said once, not once a second


def test_what_a_beat_read_before_a_move_never_follows_what_the_move_says(talk: Any) -> None:
    worker = talk("--preload", "odd_module", module=SLOW_TO_READ)
    worker.send(1, ECHO | {"options": {"card_mb": 600}})
    assert worker.answer(1)["usage"]["memory"]["cuda_bytes"] == 600 * 2**20
    next(frame for frame in worker.frames() if frame.get("say") == "beat")
    time.sleep(1.3)  # the next beat is reading
    worker.send(2, {"do": "park"})
    assert worker.answer(2)["usage"]["memory"]["cuda_bytes"] == 0
    told = worker.frames()
    beats = [next(frame for frame in told if frame.get("say") == "beat") for _ in range(2)]
    assert [beat["memory"]["cuda_bytes"] for beat in beats] == [0, 0]


def test_what_is_too_large_for_a_frame_is_told_and_the_worker_stays(talk: Any) -> None:
    worker = talk("--preload", "odd_module", module=ODD)
    worker.send(1, ECHO)
    worker.say(2, "x", words=1)
    failed = worker.answer(2)
    assert failed["event"] == "Failed" and "bytes is over 2000000." in failed["message"]
    worker.say(3, "still here")
    assert worker.answer(3)["event"] == "Done"


@pytest.mark.alone
def test_the_end_of_its_input_ends_it(talk: Any) -> None:
    worker = talk()
    worker.send(1, ECHO)
    worker.answer(1)
    started = time.monotonic()
    worker.process.stdin.close()
    assert worker.process.wait(5) == 0
    assert time.monotonic() - started < 1


LIMITED = """
import sys
class cuda:
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: False)
    class get_device_properties:
        def __init__(self, index): self.total_memory = 1000
    set_per_process_memory_fraction = staticmethod(lambda f: print("fraction", f, file=sys.stderr))
"""


def test_it_takes_no_more_of_the_gpu_than_it_was_granted(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(LIMITED)
    worker = talk("--preload", "torch")
    worker.send(1, {**ECHO, "grant_bytes": 250})
    assert worker.answer(1)["event"] == "Done"
    worker.send(2, {"do": "run", "params": {"messages": [{"role": "user", "content": "a"}]},
                    "grant_bytes": 500})  # fmt: skip
    assert worker.answer(2)["event"] == "Done"
    worker.send(3, {"do": "park"})
    assert worker.answer(3)["event"] == "Done"
    worker.send(4, {"do": "unpark", "grant_bytes": 5000})
    assert worker.answer(4)["event"] == "Done"
    worker.say(5)
    assert worker.answer(5)["event"] == "Done"
    said = [line for line in worker.rest().splitlines() if line.startswith("fraction")]
    assert said == ["fraction 0.25", "fraction 0.5", "fraction 1.0"]
