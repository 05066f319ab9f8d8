"""A child that talks to the disk: `python -m backends.train ABSOLUTE_FOLDER` runs one job.

The folder is all there is: `spec.json` says what to do, `control.json` what the user wants
meanwhile, everything else is written here (`runtime/jobs.py` reads it). A lock on `job.lock` is
held for life, `exit.json` is written last; without either the job counts as interrupted. Exit code
0 only if it finished.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import IO

from backends.base import Backend, Refused
from backends.events import Done, Failed
from backends.runtime import job_dataset
from backends.runtime.disk import read_json
from backends.runtime.job_spec import GRANT, same_dataset, understand
from backends.runtime.job_writer import JobWriter, is_disk_full
from backends.runtime.process import lock_file
from backends.runtime.run_card import note_versions
from backends.worker import explain, limit_gpu

POLL = 0.2  # seconds between two looks at control.json
PATIENCE = 10.0  # seconds that a killed run's children may hold the lock a while longer
HELD = 3  # exit code: another process runs this job
DISK_FULL = (
    "The disk is full, so the job was paused.",
    "Free some space, then resume: it goes on from the last checkpoint.",
)
NO_MEMORY = "Choose a smaller micro-batch or a shorter length; resume goes on from a checkpoint."


class Ended(BaseException):
    """Asked to end at once, by a second signal."""


class Control:
    """What the user wants: "" (go on), "pause" or "stop"."""

    def __init__(self, file: Path) -> None:
        self.file, self._asked, self._looked = file, "", 0.0
        self.hurried = False

    def wanted(self) -> str:
        """Looks at the file at most every `POLL` seconds, and keeps to what it once said."""
        now = time.monotonic()
        if not self._asked and now - self._looked >= POLL:
            self._looked = now
            said = read_json(self.file)
            self._asked = "stop" if said.get("stop") else "pause" if said.get("pause") else ""
        return self._asked

    def signalled(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C or SIGTERM: stop with a checkpoint, also where that was asked for already; at the
        second one, without."""
        if self.hurried:
            raise Ended
        self._asked, self.hurried = self._asked or "stop", True


class Job:
    """One run of one folder. `go` returns how it ended."""

    def __init__(self, folder: Path, progress: IO[str] | None) -> None:
        self.folder = folder
        self.control = Control(folder / "control.json")
        self.out = JobWriter(folder, progress)

    def go(self) -> str:
        """Run it and write exit.json. Returns the status."""
        started = time.monotonic()
        try:
            status, said = self._run()
            self.out.finish_line()
        except Ended:
            status, said = "stopped", Failed("The job was ended at once.", "Resume goes on.")
        except BaseException as error:
            status, said = self._explain(error)
        self.out.end(status, said, time.monotonic() - started)
        return status

    def _run(self) -> tuple[str, Failed]:
        spec = read_json(self.folder / "spec.json")
        understand(spec, self.folder)
        self.out.begin("loading")
        note_versions(self.folder)
        found = job_dataset.brought(spec, self.folder, self.out.take, lambda: not self._wanted())
        if found is None:
            return self._asked_to_end()
        same_dataset(found)
        asked = understand(found, self.folder)
        backend = asked.backend()
        backend.report = self.out.take
        backend.cancelled = lambda: bool(self._wanted())
        backend.hurried = lambda: self.control.hurried
        if grant := os.environ.get(GRANT, ""):
            importlib.import_module("torch")  # which then keeps to it
            limit_gpu({"grant_bytes": grant})
        backend.load(asked.model, asked.options)
        if self._wanted():
            return self._asked_to_end()
        self.out.measure(getattr(backend, "device", "cpu"))
        self.out.status("running")
        try:
            return self._follow(backend, asked.params)
        finally:
            backend.unload()

    def _follow(self, backend: Backend, params: object) -> tuple[str, Failed]:
        done = Done()
        events = backend.run(params)
        with contextlib.closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Failed):
                    return "failed", Failed(event.message, event.hint, event.detail)
                if isinstance(event, Done):
                    done = event
                    break
                self.out.take(event)
                # A training writes its checkpoint and ends by itself; others have none to write.
                if self._wanted() and backend.card.task != "finetune":
                    return self._asked_to_end()
        usage = dict(done.usage)
        status = str(usage.pop("status", ""))
        self.out.usage = usage
        if status:
            words = (str(usage.pop("message", "")), str(usage.pop("hint", "")))
            return status, Failed(*words)
        return self._asked_to_end() if done.cancelled else ("finished", Failed("It is done."))

    def _wanted(self) -> str:
        wanted = self.control.wanted()
        if wanted:
            self.out.ending(wanted)
        return wanted

    def _asked_to_end(self) -> tuple[str, Failed]:
        if self.control.wanted() == "pause":
            return "paused", Failed("The job is paused.", "Resume goes on where it was.")
        return "stopped", Failed("The job was stopped.", "Resume goes on where it was.")

    def _explain(self, error: BaseException) -> tuple[str, Failed]:
        with contextlib.suppress(OSError):  # the log may be what does not fit
            traceback.print_exception(error)
        failed = explain(error)
        if is_disk_full(error):
            said = (failed.message, failed.hint) if isinstance(error, Refused) else DISK_FULL
            return "paused", Failed(*said, failed.detail)
        hint = NO_MEMORY if failed.out_of_memory else failed.hint
        return "failed", Failed(failed.message, hint, failed.detail)


def take_lock(folder: Path) -> IO[str] | None:
    """The job's lock, or None where another run holds it for longer than a moment."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = lock_file(folder / "job.lock")
        if lock or time.monotonic() > deadline:
            return lock
        time.sleep(0.05)


def print_to_log(folder: Path) -> IO[str]:
    """From here on what libraries print goes to log.txt. Returns the old stdout."""
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    return terminal


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="the job's folder")
    parser.add_argument("--progress", action="store_true", help="a line per step on the terminal")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "spec.json").is_file():
        print(f"{folder} is no job: it has no spec.json. Name a job's folder.", file=sys.stderr)
        return 2
    lock = take_lock(folder)
    if lock is None:
        print("This job runs already. Watch it on the page, or stop it there.", file=sys.stderr)
        return HELD
    with lock:
        (folder / "exit.json").unlink(missing_ok=True)
        terminal = print_to_log(folder)
        faulthandler.enable()
        job = Job(folder, terminal if args.progress else None)
        signal.signal(signal.SIGINT, job.control.signalled)
        signal.signal(signal.SIGTERM, job.control.signalled)
        status = job.go()
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        # Threads that a library left behind do not keep the lock and the GPU.
        for stream in (terminal, sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(0 if status == "finished" else 1)


if __name__ == "__main__":
    sys.exit(main())
