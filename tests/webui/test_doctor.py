"""The doctor: what it finds, in words and as JSON, and when it says that something is wrong."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from webui.doctor import computer, gpu, installed, own, report
from webui.doctor.finding import Finding
from webui.setup import chromium
from webui.setup.talk import SetupFailed

CARD = gpu.Card("NVIDIA GeForce RTX 4070 Ti", 12 * 2**30, 8.9, "595.10")
TORCH = {"version": "2.14.1", "cuda": "13.0", "usable": False, "error": "no device"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that importing torch and starting two browsers take."""
    monkeypatch.setattr(gpu, "ask_torch", lambda card: {**TORCH, "usable": True})
    monkeypatch.setattr(chromium, "find", lambda playwright: "/usr/bin/chromium")


@pytest.mark.usefixtures("quick")
def test_a_healthy_environment_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.report(home=tmp_path) == 0
    text = capsys.readouterr().out
    titles = ["This computer", "Installed", "Graphics card", "Werkbank"]
    assert [text.index(title) for title in titles] == sorted(text.index(t) for t in titles)
    assert "Nothing is wrong that stops Werkbank." in text
    assert "gradio" in text and "wanted: ==6.31.*" in text and "\x1b[" not in text


@pytest.mark.usefixtures("quick")
def test_json_has_the_same_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.report(home=tmp_path, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert list(told["findings"]) == ["This computer", "Installed", "Graphics card", "Werkbank"]
    names = [finding["name"] for finding in told["findings"]["This computer"]]
    assert names == ["Python", "System", "Clock", "Memory", "Disk, home", "Disk, cache"]


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_is_repeated_with_what_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = SetupFailed("The disk is full.", "Free some space.")
    assert report.report(home=tmp_path, setup_failure=failure) == 1
    text = capsys.readouterr().out
    wrong = text.partition("What is wrong, and what mends it")[2]
    assert "Environment: The disk is full.\n      Free some space.\n" in wrong


@pytest.mark.parametrize(
    ("there", "state", "value"),
    [("2.0", "ok", "2.0"), (None, "wrong", "missing"), ("1.9", "wrong", "1.9 does not fit")],
)
def test_a_package_is_held_against_its_pin(
    there: str | None, state: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "installed", lambda requirement: there)
    finding = installed._package("tiny-lib==2.*", "pip install it")
    assert (finding.name, finding.state) == ("tiny-lib", state)
    assert finding.value.startswith(value)
    assert finding.mend == ("pip install it" if state == "wrong" else "")


def test_all_missing_packages_are_mended_by_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installed, "installed", lambda requirement: None)
    monkeypatch.setattr(installed, "unmet", lambda requirements: requirements)
    missing = [f for f in installed.installed_findings() if f.state == "wrong"]
    assert len(missing) > 10
    report._show_mends(missing)
    *_, command = lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(missing) + 1
    assert '"gradio==6.31.*" "fastapi' in command and 'constraints.txt"' in command


def test_a_clock_behind_the_files_is_wrong() -> None:
    assert computer._clock(now=1_800_000_000, newest=1_700_000_000).state == "ok"
    assert computer._clock(now=0, newest=1_700_000_000).state == "wrong"


@pytest.mark.parametrize(("free", "state"), [(1e8, "wrong"), (1e9, "note"), (1e11, "ok")])
def test_a_disk_is_judged_by_what_is_free(
    free: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computer.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    finding = computer._disk("Disk, home", tmp_path / "not" / "made")
    assert finding.state == state and (finding.mend == "") == (state == "ok")


def test_the_folders_are_the_same_without_platformdirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WERKBANK_HOME")
    monkeypatch.delenv("WERKBANK_CACHE", raising=False)
    assert computer.folder_of("home") == computer._usual_folder("home")
    assert computer.folder_of("cache") == computer._usual_folder("cache")
    monkeypatch.setenv("WERKBANK_HOME", "/daheim")
    assert computer.folder_of("home") == Path("/daheim").absolute()


def test_a_home_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert own._home(tmp_path / "new").state == "ok"
    finding = own._home(tmp_path / "file" / "home")
    assert finding.state == "wrong" and "--home DIR" in finding.mend


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, *args: Any) -> None:
        """Nothing: the test's output stays clean."""


@pytest.fixture
def healthy() -> Iterator[int]:
    """The port of a server that answers /healthz as Werkbank does."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_running_werkbank_is_found_and_its_token_is_not_shown(
    healthy: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{healthy}/?token=geheim"
    (tmp_path / "server.json").write_text(json.dumps({"url": url, "pid": 42}))
    finding = own._running(tmp_path)
    assert finding == Finding("Running", f"http://127.0.0.1:{healthy}/ (process 42)")
    assert (
        own._port(healthy).value == f"{healthy} is used by a Werkbank; the next free one is taken"
    )


def test_a_note_of_a_dead_server_and_a_strange_program_on_the_port_are_told_apart(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        (tmp_path / "server.json").write_text(f'{{"url": "http://127.0.0.1:{port}/", "pid": 42}}')
        finding = own._running(tmp_path)
    assert finding and finding.state == "note" and "does not answer" in finding.value
    (tmp_path / "server.json").write_text("half a fi")
    assert own._running(tmp_path) is None
    assert own._port(port).value == f"{port} is free"


@pytest.mark.parametrize(
    ("capability", "able", "unable"),
    [
        (8.9, "NF4, fp16, INT8, bf16, FP8", ""),
        (7.5, "NF4, fp16, INT8", "no bf16 (needs 8.0), no FP8 (needs 8.9)"),
        (6.1, "NF4", "no fp16 (needs 7.0), no INT8 (needs 7.5)"),
    ],
)
def test_what_a_card_can_do_follows_from_its_compute_capability(
    capability: float, able: str, unable: str
) -> None:
    value = gpu.ability(capability).value
    assert value.startswith(f"compute capability {capability}: {able}") and unable in value


@pytest.mark.parametrize(
    ("card", "told", "said"),
    [
        (CARD, {"usable": True}, "2.14.1, built for CUDA 13.0"),
        (CARD, {"cuda": None}, "built without CUDA: the card is not used"),
        (gpu.Card("GTX 1080", 8 * 2**30, 6.1, "595.10"), {}, "the card is too old for it"),
        (gpu.Card("RTX 4070", 12 * 2**30, 8.9, "550.54"), {}, "550.54 is too old, 580 or newer"),
        (CARD, {"error": "CUDA unknown error"}, "cannot be used (CUDA unknown error)"),
    ],
)
def test_a_card_that_torch_cannot_use_is_explained(
    card: gpu.Card, told: dict[str, Any], said: str
) -> None:
    finding = gpu.torch_finding([card], TORCH | told)
    assert said in finding.value
    assert finding.state == ("ok" if told.get("usable") else "note")
    assert finding.state == "ok" or "docs/troubleshooting.md" in finding.mend


def test_a_torch_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libcudart missing\n")
    monkeypatch.setattr(gpu, "quietly", lambda command, seconds: failed)
    finding = gpu.torch_finding([], gpu.ask_torch(False))
    assert finding.state == "wrong"
    assert "ImportError: libcudart missing" in finding.value


def test_nvidia_smi_is_read_where_nvml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    line = "NVIDIA GeForce RTX 4070 Ti, 12282, 8.9, 595.10\n"
    cards, _ = gpu._ask_nvidia_smi(lambda command: subprocess.CompletedProcess(command, 0, line))
    assert cards == [gpu.Card("NVIDIA GeForce RTX 4070 Ti", 12282 * 2**20, 8.9, "595.10")]
    dead = subprocess.CompletedProcess([], 9, "NVIDIA-SMI has failed")
    cards, message = gpu._ask_nvidia_smi(lambda command: dead)
    assert cards == [] and "does not answer" in message


def test_torch_is_asked_in_another_process() -> None:
    before = "torch" in sys.modules  # other tests of this process may use it
    told = gpu.ask_torch(False)
    assert told["version"].startswith("2.")
    assert ("torch" in sys.modules) == before
