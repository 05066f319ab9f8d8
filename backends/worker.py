"""A child that talks to the page: `python -m backends.worker`. It holds one model in memory.

Frames (`runtime/frames.py`) come on stdin and go out on the first stdout; whatever a library
prints goes to the log. The end of stdin means that the page is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import psutil

from backends import BACKENDS
from backends.base import Backend, ModelRef, Refused
from backends.events import Done, Event, Failed, Text, to_json
from backends.finetune.shortage import is_out_of_memory
from backends.params import read
from backends.runtime import frames
from backends.runtime.frames import POISONED, RECYCLED

BEAT = 1.0  # seconds between signs of life
HUNG = 600.0  # seconds without one after which the process ends itself, GIL held or not
SLACK_BYTES = 300 * 2**20  # more than this above the value after load counts as not given back
FATAL_CUDA = ("CUDA error", "device-side assert", "illegal memory access", "CUDNN_STATUS_")


class Worker:
    """Commands in, events out. The main thread works, one thread reads, one beats."""

    def __init__(self, out: int, hung: float = HUNG) -> None:
        self.out, self.hung = out, hung
        self.writing = threading.Lock()
        self.weighing = threading.RLock()
        self.commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.current = 0
        self.backend: Backend | None = None
        self.after_load: dict[str, int] = {}
        self.mute = False  # the backend could not say what it holds, which the log has once

    # What goes out

    def send(self, frame: dict[str, Any]) -> None:
        line = frames.encode(frame, frames.TO_PAGE_BYTES)
        with self.writing:
            while line:
                line = line[os.write(self.out, line) :]

    def say(self, what: str, **fields: Any) -> None:
        self.send({"id": 0, "say": what, **fields})

    def emit(self, call: int, event: Event) -> None:
        self.send({"id": call, **to_json(event)})

    # The two side threads

    def read_commands(self) -> None:
        while True:
            line = sys.stdin.buffer.readline(frames.TO_WORKER_BYTES)
            if not line.endswith(b"\n"):
                os._exit(0)  # stdin closed: the page is gone, so the GPU must be free again
            frame = frames.decode(line)
            if frame["do"] == "cancel":
                self.cancelled.add(frame["id"])
            else:
                self.commands.put(frame)

    def beat(self) -> None:
        while True:
            # Looked at by a C thread that needs no GIL: the last resort for a hung orphan.
            faulthandler.dump_traceback_later(self.hung, exit=True)
            self.say_memory()
            time.sleep(BEAT)

    def say_memory(self) -> None:
        """A beat. What it read is out before the main thread reads: a number from before a move
        that arrives behind the move's own would stand for a second, and a model that went to RAM
        would count as one whose memory did not come back."""
        with self.weighing:
            self.say("beat", memory=self.memory())

    def memory(self) -> dict[str, int]:
        """What this process holds, and what its backend adds to that. Never raises: without a
        beat the process counts as hung, and a number less is no reason for that."""
        held: dict[str, int] = {}
        with self.weighing:
            backend = self.backend
            try:
                held = process_memory()
                if backend:
                    held |= {str(k): int(v) for k, v in backend.memory().items()}
            except Exception:
                if not self.mute:
                    traceback.print_exc()
                self.mute = True
        return held

    # The work

    def serve(self) -> None:
        while True:
            frame = self.commands.get()
            call = self.current = frame["id"]
            try:
                for event in self.do(frame):
                    self.emit(call, event)
            except BaseException as error:
                self.answer_error(call, error)
            self.cancelled.discard(call)

    def do(self, frame: dict[str, Any]) -> Iterator[Event]:
        return {
            "load": self.load,
            "run": self.run,
            "unload": self.unload,
            "park": self.park,
            "unpark": self.unpark,
        }[frame["do"]](frame)

    def load(self, frame: dict[str, Any]) -> Iterator[Event]:
        kind = BACKENDS[frame["backend"]]
        options = read(kind.card.load_options, frame.get("options") or {})
        started = time.monotonic()
        if frame.get("grant_bytes") and "torch" in kind.card.preload:
            importlib.import_module("torch")
        limit_gpu(frame)
        backend = kind()
        backend.report = lambda event: self.emit(frame["id"], event)
        backend.cancelled = lambda: self.current in self.cancelled
        backend.load(ModelRef.parse(frame["model"]), options)
        self.backend = backend
        give_back()
        self.after_load = self.memory()
        seconds = time.monotonic() - started
        yield Done(
            cancelled=frame["id"] in self.cancelled,
            usage={"seconds": seconds, "memory": self.after_load},
        )

    def run(self, frame: dict[str, Any]) -> Iterator[Event]:
        call, backend = frame["id"], self.loaded()
        params = read(backend.card.params, frame["params"])
        limit_gpu(frame)
        started, first, pieces = time.monotonic(), 0.0, 0
        done: Done | None = None
        events = backend.run(params)
        with contextlib.closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Done | Failed):
                    if isinstance(event, Failed):
                        yield event
                        return
                    done = event
                    break
                if isinstance(event, Text):
                    first = first or time.monotonic() - started
                    pieces += 1
                yield event
                if call in self.cancelled:
                    break
        measured = {
            "seconds": time.monotonic() - started,
            "first_token_seconds": first,
            "completion_tokens": pieces,
        }
        stopped = call in self.cancelled or bool(done and done.cancelled)
        yield Done(cancelled=stopped, usage={**measured, **(done.usage if done else {})})

    def unload(self, frame: dict[str, Any]) -> Iterator[Event]:
        before = self.memory()
        if self.backend:
            self.backend.unload()
        self.backend = None
        give_back()
        yield Done(usage={"before": before, "after": self.memory()})

    def park(self, frame: dict[str, Any]) -> Iterator[Event]:
        self.loaded().park()
        give_back()
        yield Done(usage={"memory": self.memory()})

    def unpark(self, frame: dict[str, Any]) -> Iterator[Event]:
        limit_gpu(frame)
        self.loaded().unpark()
        yield Done(usage={"memory": self.memory()})

    def loaded(self) -> Backend:
        if self.backend is None:
            raise Refused("No model is loaded in this process.", "Load one, then try again.")
        return self.backend

    # What goes wrong

    def answer_error(self, call: int, error: BaseException) -> None:
        failed = explain(error)
        traceback.print_exception(error)  # to the log
        text = str(error)
        # The frames of the traceback hold the tensors that did not fit.
        traceback.clear_frames(error.__traceback__)
        del error
        if failed.out_of_memory:
            give_back()
            self.answer_last(call, failed, RECYCLED if self.held_too_much() else 0)
        elif any(sign in text for sign in FATAL_CUDA):
            self.answer_last(call, failed, POISONED)
        else:
            self.emit(call, failed)

    def answer_last(self, call: int, failed: Failed, exit_code: int) -> None:
        if exit_code:
            self.say("leaving", code=exit_code)  # so that nothing new is sent into a closing pipe
        self.emit(call, failed)
        if exit_code:
            os._exit(exit_code)

    def held_too_much(self) -> bool:
        gpu_now = process_memory().get("cuda_bytes", 0)
        return gpu_now > self.after_load.get("cuda_bytes", 0) + SLACK_BYTES


def process_memory() -> dict[str, int]:
    """What this process holds, in bytes. Never the first to touch CUDA."""
    found = {"rss_bytes": int(psutil.Process().memory_info().rss)}
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        found["cuda_bytes"] = int(cuda.memory_reserved())
    return found


def limit_gpu(frame: dict[str, Any]) -> None:
    """Take no more of the GPU than was granted: torch then says that memory ran out, where a driver
    under Windows would go on in the computer's memory, ten times as slow."""
    grant, torch = int(frame.get("grant_bytes") or 0), sys.modules.get("torch")
    if grant and torch is not None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, grant / total))


def give_back() -> None:
    """Return freed memory to the driver and to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.empty_cache()
    if sys.platform == "linux":  # glibc keeps freed pieces; 150 MB after quantising a small model
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


def explain(error: BaseException) -> Failed:
    """Any exception as two sentences, with the traceback as detail."""
    detail = "".join(traceback.format_exception(error))[-8000:]
    text = str(error)
    if isinstance(error, Refused):
        return error.as_event()
    if isinstance(error, ValueError) and text.endswith(".") and ". " in text:
        happened, _, mend = text.partition(". ")
        return Failed(f"{happened}.", mend, detail, refused=True)
    if isinstance(error, MemoryError) or is_out_of_memory(text):
        return Failed(
            "There was not enough memory for this.",
            "Make the request smaller (shorter text, fewer new tokens), or unload a model.",
            detail,
            out_of_memory=True,
        )
    if any(sign in text for sign in FATAL_CUDA):
        return Failed(
            "The GPU reported an error, and the model process has to be restarted.",
            "Send it again. If it happens again, restart the computer.",
            detail,
        )
    if isinstance(error, ModuleNotFoundError):
        return Failed(
            f"The package {error.name} is not installed.",
            "Run `python launch.py doctor`, it names the command that mends it.",
            detail,
        )
    return Failed(
        f"The model stopped with an unexpected error ({type(error).__name__}: {text[:200]}).",
        "Try again. If it stays, look at the details and the worker's log.",
        detail,
    )


def preload(modules: list[str]) -> list[str]:
    """Import what a load would have to wait for. What is missing is left for `load` to name."""
    found = []
    for module in modules:
        try:
            importlib.import_module(module)
            found.append(module)
        except ImportError as error:
            print(f"not preloaded: {module} ({error})", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preload", default="", help="modules to import now, comma separated")
    parser.add_argument("--hung", type=float, default=HUNG, help="seconds without a sign of life")
    args = parser.parse_args()
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print; from here on that is the log
    os.environ["WERKBANK_FRAMES_FD"] = str(out)
    faulthandler.enable()
    worker = Worker(out, args.hung)
    worker.say("hello", pid=os.getpid(), created=psutil.Process().create_time())
    threading.Thread(target=worker.read_commands, daemon=True).start()
    started = time.monotonic()
    found = preload([m for m in args.preload.split(",") if m])
    worker.say("preloaded", modules=found, seconds=time.monotonic() - started)
    threading.Thread(target=worker.beat, daemon=True).start()
    worker.serve()


if __name__ == "__main__":
    main()
