"""Ending processes: whole trees, and those that end by themselves meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backends.runtime.process import child_environment, kill_tree, start_flags


def test_a_process_is_ended_with_all_that_it_started() -> None:
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid,"
        " flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **start_flags(),
    ) as parent:  # fmt: skip
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        kill_tree(parent.pid)
        assert parent.wait(5) != 0
    gone, _ = psutil.wait_procs([child], timeout=5)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_one_that_ends_while_it_is_killed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(10)
    kill_tree(process.pid)
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: True)  # a moment ago it was there
    kill_tree(process.pid)
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(process.pid)  # which is what it met


@pytest.mark.skipif(sys.platform != "linux", reason="Windows and macOS have no such segments")
def test_a_workers_torch_keeps_its_memory_in_segments_that_grow(tmp_path: Path) -> None:
    environment = child_environment(tmp_path)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        assert environment[name] == "expandable_segments:True"
