"""The tests' browser: where it is looked for, how it is installed, never with a question."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from webui.setup import chromium

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are shell scripts")


def program(folder: Path, name: str, code: int = 0) -> Path:
    """A program that prints a version and ends with `code`."""
    file = folder / name
    file.write_text(f"#!/bin/sh\necho Chromium 1.0\nexit {code}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any browser; the folder is its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(chromium.VARIABLE, raising=False)
    monkeypatch.setattr(chromium, "ELSEWHERE", ())
    return tmp_path


def test_the_system_browser_is_found_and_a_named_one_goes_first(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chromium.find(playwright=False) == ""
    system = program(bare, "google-chrome")
    assert chromium.find(playwright=False) == str(system)
    named = program(bare, "my browser")
    monkeypatch.setenv(chromium.VARIABLE, str(named))
    assert chromium.find(playwright=False) == str(named)


def test_a_stub_that_does_not_start_is_no_browser(bare: Path) -> None:
    program(bare, "chromium", code=1)
    assert chromium.find(playwright=False) == ""
    real = program(bare, "chromium-browser")
    assert chromium.find(playwright=False) == str(real)


def test_playwrights_own_is_taken_last(bare: Path) -> None:
    own = program(bare, "playwright's")

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        path = str(own) if command[0] == sys.executable else ""
        return subprocess.CompletedProcess(command, 0, path + "\n")

    assert chromium.find(run=run) == str(own)
    system = program(bare, "chromium")
    assert chromium.find(run=run) == str(system)


def test_what_is_missing_is_installed_by_the_next_way_that_works(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, works = program(bare, "broken", code=3), bare / "works"
    works.write_text(f"#!/bin/sh\nprintf '#!/bin/sh\\n' > {bare}/chromium\n"
                     f"/bin/chmod 755 {bare}/chromium\n")  # fmt: skip
    works.chmod(0o755)
    ways = [("the first way", [[str(broken)], ["never"]]), ("the second way", [[str(works)]])]
    monkeypatch.setattr(chromium, "ways", lambda: ways)
    monkeypatch.setattr(chromium, "_ASK_PLAYWRIGHT", "print()")
    said: list[str] = []
    assert chromium.provide(said.append) == str(bare / "chromium")
    assert said == [
        "No Chromium here. Trying: the first way",
        "  that failed (exit code 3): Chromium 1.0",
        "No Chromium here. Trying: the second way",
    ]


def test_without_any_way_there_is_no_browser_and_no_exception(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "ways", lambda: [("nothing", [["/nowhere/program"]])])
    monkeypatch.setattr(chromium, "_ASK_PLAYWRIGHT", "print()")
    said: list[str] = []
    assert chromium.provide(said.append) == ""
    assert said[1].startswith("  that failed: ")


@pytest.mark.parametrize("debian_root", [True, False])
def test_apt_is_used_by_root_on_debian_alone_and_asks_nothing(
    debian_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "is_debian_root", lambda: debian_root)
    names = [what for what, _ in chromium.ways()]
    assert ("apt-get install chromium" in names) == debian_root
    assert names[-1] == "playwright install chromium"
    commands = [c for _, commands in chromium.ways() for c in commands if c[0] == "apt-get"]
    assert all("-y" in command for command in commands)
