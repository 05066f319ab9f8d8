"""What a running job writes into its folder: the events of its backend, sorted onto files."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import IO, Any

import psutil

from backends.events import Artifact, Event, Failed, Item, Metric, Notice, Progress, Text, to_json
from backends.models.gguf_copy import FULL_DISK
from backends.runtime.disk import Lines, read_json, write_json
from backends.runtime.meter import Meter

STATE_EVERY = 0.25  # seconds between two writes of state.json
RESERVE = 65_536  # bytes kept free, so that a full disk has room for the end
# What safetensors and torch make of the same; neither raises OSError.
FULL_WORDS = ("No space left on device", "File too large", "os error 28", "os error 27",
              "PytorchStreamWriter failed writing", "iostream error",
              "Disk quota exceeded")  # fmt: skip


def is_disk_full(error: BaseException | None) -> bool:
    """Whether there was no room to write, in whatever words, or because of such an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return True
        if any(words in str(error) for words in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


class JobWriter:
    """metrics.jsonl, samples.jsonl, events.jsonl, state.json and exit.json of one run.

    Raises OSError where the disk is full, which ends the run as paused.
    """

    def __init__(self, folder: Path, progress: IO[str] | None = None) -> None:
        self.folder, self.progress = folder, progress
        self.usage: dict[str, Any] = {}
        self._line: dict[str, Any] = {}
        self._files: dict[str, Lines] = {}
        self._written = -STATE_EVERY  # monotonic seconds
        self._first: tuple[float, float] | None = None  # step and monotonic seconds
        before = read_json(folder / "state.json")
        self._state: dict[str, Any] = {
            "status": "loading",
            "pid": os.getpid(),
            "create_time": psutil.Process().create_time(),
            "step": before.get("step", 0),
            "total": before.get("total", 0),
            "message": "",
            "eta_seconds": None,
            "started": time.time(),
            "resumed": before.get("resumed", 0),
            "worked": before.get("worked", 0.0),
            "energy_wh": before.get("energy_wh"),
        }
        # Of the runs before this one: seconds, and watt-hours, None where some of it is not known.
        self._before = float(before.get("worked") or 0.0), before.get("energy_wh")
        self._began = time.monotonic()
        self._meter: Meter | None = None
        self._again = (folder / "metrics.jsonl").exists()
        if not self._again:
            self._before = self._before[0], 0.0

    def begin(self, status: str) -> None:
        """The first word of a run, also of one that goes on with an earlier one."""
        (self.folder / "reserve").write_bytes(b"\0" * RESERVE)
        if self._again:
            self._state["resumed"] += 1
        self.status(status)

    def measure(self, device: str) -> None:
        """Count what `device` uses from now on: "cuda", or what is no card."""
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
        index = first if first.isdigit() else "0"
        self._meter = Meter(f"cuda:{index}" if device == "cuda" else device)

    def _watt_hours(self, last: bool = False) -> float | None:
        """Of all runs of this job so far; None without a card, or where it does not tell."""
        before = self._before[1]
        if self._meter is None:  # this one did not come to its work
            return before or None
        now = self._meter.close() if last else self._meter.so_far()
        return None if now is None or before is None else round(now + before, 6)

    def status(self, status: str) -> None:
        """Say what it is at now, at once."""
        self._state["status"] = status
        self._write_state(now=True)
        if status in ("loading", "running"):
            self._print(f"{status} …")

    def ending(self, wanted: str) -> None:
        """The user wants it to end: say so once."""
        status = "pausing" if wanted == "pause" else "stopping"
        if self._state["status"] != status:
            self.status(status)

    def take(self, event: Event) -> None:
        """Write one event where it belongs."""
        if isinstance(event, Metric):
            if self._line.get("step", event.step) != event.step:
                self.finish_line()
            value = event.value if math.isfinite(event.value) else None  # JSON knows no NaN
            self._line |= {"step": event.step, event.name: value}
            return
        self.finish_line()
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Item) and event.kind == "sample":
            data = event.data if isinstance(event.data, dict) else {"text": event.data}
            self._add("samples.jsonl", data)
        elif isinstance(event, Text):
            print(event.delta, end="")
        else:
            self._add("events.jsonl", {"time": time.time(), **to_json(event)})
            if isinstance(event, Notice | Artifact):
                said = event.message if isinstance(event, Notice) else f"{event.kind} {event.path}"
                print(said)
                self._print(said)

    def finish_line(self) -> None:
        """Write the metrics gathered for a step as one line of metrics.jsonl."""
        if self._line:
            line, self._line = self._line, {}
            self._state["energy_wh"] = energy = self._watt_hours()
            if energy is not None:
                line["energy_wh"] = energy
            self._add("metrics.jsonl", line)
            self._state["step"] = line["step"]
            self._write_state()
            values = (f"{k} {v:.4g}" for k, v in line.items() if k != "step" and v is not None)
            total = f"/{self._state['total']:g}" if self._state["total"] else ""
            self._print("  ".join((f"step {line['step']}{total}", *values)))

    def end(self, status: str, said: Failed, seconds: float) -> None:
        """The last word: exit.json, on the disk before this returns, with a full disk too."""
        for name in ("reserve", "control.json"):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        for lines in self._files.values():
            with contextlib.suppress(OSError):  # its buffer did not fit, which was said already
                lines.close()
        energy = self._watt_hours(last=True)
        self._state |= {"status": status, "message": said.message, "eta_seconds": None,
                        "energy_wh": energy}  # fmt: skip
        if energy is not None:
            self.usage["energy_wh"] = energy
        with contextlib.suppress(OSError):
            self._write_state(now=True)
        ended = {
            "status": status, "message": said.message, "hint": said.hint, "detail": said.detail,
            "seconds": round(seconds, 3), "usage": self.usage,
        }  # fmt: skip
        try:
            write_json(self.folder / "exit.json", ended, durable=True)
        except OSError as error:  # it then counts as interrupted, and can be resumed all the same
            self._print(f"exit.json cannot be written ({error.strerror}).")
        self._print(f"{status}: {said.message} {said.hint if status != 'finished' else ''}".strip())

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        if self._state["status"] == "loading":
            self._state["message"] = event.note
            self._write_state()
            return
        if self._first is None:
            self._first = event.step, now
        steps, seconds = event.step - self._first[0], now - self._first[1]
        left = max(event.total - event.step, 0)
        eta = round(seconds / steps * left, 1) if steps > 0 and event.total else None
        self._state |= {"step": event.step, "total": event.total, "message": event.note}
        self._state["eta_seconds"] = eta
        self._write_state()

    def _write_state(self, now: bool = False) -> None:
        at = time.monotonic()
        if now or at - self._written >= STATE_EVERY:
            self._written = at
            self._state["worked"] = round(self._before[0] + at - self._began, 3)
            write_json(self.folder / "state.json", {**self._state, "updated": time.time()})

    def _add(self, name: str, value: dict[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = Lines(self.folder / name)
        self._files[name].add(value)

    def _print(self, line: str) -> None:
        if self.progress:
            with contextlib.suppress(OSError):  # the terminal may be gone; the job is not
                print(line, file=self.progress)
