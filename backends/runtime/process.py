"""What differs between systems when a process is started, locked or ended. Windows code lives here.

The Windows branches were reviewed, not run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
WINDOWS = sys.platform == "win32"
LINUX = sys.platform == "linux"

# A child sees these of our environment and no others: no hub token, no cloud key, no proxy login.
PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA",
    "LOCALAPPDATA", "PROGRAMDATA", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
    "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "WERKBANK_HOME", "WERKBANK_CACHE",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
)  # fmt: skip
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "WERKBANK_TEST_")

EXPANDS = "expandable_segments:True"
TEMP_MARK = ".made-by-werkbank"

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that cuda:N is NVML's index N
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # counting cards must not make a CUDA context
    # Without it what a load leaves over in the allocator's blocks is lost; Windows has it not.
    **({"PYTORCH_ALLOC_CONF": EXPANDS, "PYTORCH_CUDA_ALLOC_CONF": EXPANDS} if LINUX else {}),
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
}


def own_temp(home: Path) -> Path:
    """The folder for what does not outlive the page, made where it is missing.

    A marker inside says that it is ours: the user may keep other things in `home`.
    """
    folder = home / "werkbank-tmp"
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        (folder / TEMP_MARK).touch()
    return folder


def empty_temp(home: Path) -> None:
    """Remove what an earlier page left there; nothing where the folder is not ours."""
    folder = own_temp(home)
    if (folder / TEMP_MARK).is_file():
        shutil.rmtree(folder)
        own_temp(home)


def child_environment(temp: Path, more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker or a job: an allow-list, offline, with its own temp folder."""
    kept = {k: v for k, v in os.environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}
    path = os.pathsep.join(p for p in (str(CHECKOUT), kept.get("PYTHONPATH", "")) if p)
    places = {name: str(temp) for name in ("TMPDIR", "TEMP", "TMP")}
    return {**kept, **OFFLINE, **places, "PYTHONPATH": path, **(more or {})}


def peak_bytes(pid: int) -> int:
    """The most RAM that a process has held, 0 where the system does not tell or it is gone."""
    try:
        if sys.platform == "win32":
            return int(psutil.Process(pid).memory_info().peak_wset)
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except (OSError, psutil.Error):
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "")
    return 1024 * int(line.split()[1]) if line else 0


def make_private(file: Path) -> None:
    """Only its owner may read the file. Where the system cannot say so, it stays as it is."""
    if sys.platform == "win32":
        rights = ["/inheritance:r", "/grant:r", f"{os.environ.get('USERNAME', '')}:F"]
        subprocess.run(["icacls", str(file), *rights], capture_output=True, timeout=10, check=False)
    else:
        file.chmod(0o600)


def start_flags() -> dict[str, Any]:
    """Own session or group: Ctrl-C in the terminal reaches the page alone, and a kill gets all."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def start_detached(command: list[str], environment: dict[str, str], log: IO[bytes]) -> int:
    """The id of a process that outlives this one: own session, no pipe to us, output to a file.

    While this one lives it must `reap` it. Windows may forbid it to leave our job object; then it
    ends with the window.
    """
    where: dict[str, Any] = {
        "cwd": CHECKOUT, "env": environment, "stdin": subprocess.DEVNULL, "stdout": log,
        "stderr": log,
    }  # fmt: skip
    if sys.platform == "win32":
        flags = start_flags()["creationflags"]
        with contextlib.suppress(PermissionError):
            away = flags | subprocess.CREATE_BREAKAWAY_FROM_JOB
            return _left_alone(subprocess.Popen(command, creationflags=away, **where))
    return _left_alone(subprocess.Popen(command, **start_flags(), **where))


def _left_alone(process: subprocess.Popen[bytes]) -> int:
    process.returncode = 0  # or Python warns that it is forgotten, and that is meant
    return process.pid


def reap(pid: int) -> bool:
    """Whether a child of ours has ended; its entry in the system's table goes then."""
    if sys.platform == "win32":
        return not psutil.pid_exists(pid)
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def is_alive(pid: int, created: float) -> bool:
    """Whether the process that had this id then runs still: an id is given again, and a zombie is
    dead. `created` as psutil says it."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask_to_end(pid: int) -> None:
    """SIGTERM to the process and its group. Windows has no such thing: nothing happens there."""
    if sys.platform != "win32":
        try:
            os.killpg(pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def kill_tree(pid: int) -> None:
    """End the process and everything it started, now."""
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
        tree = [psutil.Process(pid)]
        tree += tree[0].children(recursive=True)
    if sys.platform != "win32":
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # already gone, or it never became a group leader; single kills follow
    for process in reversed(tree):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def lock_file(path: Path) -> IO[str] | None:
    """An OS lock held for as long as the returned file is open; None where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+", encoding="utf-8")
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def is_locked(path: Path) -> bool:
    """Whether another holds the lock of `lock_file`. Those who look never stand in one another's
    way, but one who takes it at that moment must try twice."""
    if not path.exists():
        return False
    if sys.platform == "win32":
        handle = lock_file(path)
        if handle:
            handle.close()
        return handle is None
    import fcntl

    with path.open("rb") as looked:
        try:
            fcntl.flock(looked, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
