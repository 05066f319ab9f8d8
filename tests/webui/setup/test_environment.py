"""The environment's making and lock, where the computer does not play along."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from webui.setup import environment, install
from webui.setup.environment import Environment, only_one
from webui.setup.talk import SetupFailed, Talk


def test_a_python_without_ensurepip_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupFailed) as failure:
        Environment(tmp_path).make()
    assert "lacks the module ensurepip" in failure.value.message
    assert "apt install python3-venv" in failure.value.hint
    assert not (tmp_path / ".venv").exists()


def test_a_venv_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "Error: [Errno 28] No space left on device.\n")
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(SetupFailed, match="could not be made: Error: .* No space left on device"):
        Environment(tmp_path).make()


def test_a_folder_that_cannot_be_written_is_said_in_two_sentences(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed) as failure, only_one(tmp_path / "gone" / "lock", Talk()):
        pass
    assert failure.value.message.startswith(f"Set-up cannot write in {tmp_path / 'gone'} (")
    assert "copy the folder to your home" in failure.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows frees the lock with the process")
def test_the_lock_outlives_its_holder_while_a_child_has_it(tmp_path: Path) -> None:
    out = io.StringIO()
    with only_one(tmp_path / "lock", Talk(out)) as descriptor:
        child = subprocess.Popen(["sleep", "0.5"], pass_fds=(descriptor,))
    with only_one(tmp_path / "lock", Talk(out)):
        assert child.wait(timeout=1) == 0  # it was over, or nearly, when the lock came free
    assert "Another start is setting Werkbank up already." in out.getvalue()


def test_a_stamp_of_another_python_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Environment(tmp_path)
    own.python.parent.mkdir(parents=True)
    own.python.touch()
    own.write_stamp(dependencies="abc")
    assert own.has({"dependencies": "abc"})
    assert not own.has({"dependencies": "abd"})
    assert not own.has({"dependencies": "abc", "test": "abc"})
    monkeypatch.setattr(environment.os.path, "realpath", lambda path: "/usr/bin/python3.99")
    assert not own.has({"dependencies": "abc"})


def test_a_broken_stamp_is_no_stamp(tmp_path: Path) -> None:
    own = Environment(tmp_path)
    own.folder.mkdir()
    own.stamp_file.write_text('{"dependencies": "ab')
    assert own.stamp() == {}


def test_what_an_interrupted_set_up_left_counts_towards_the_disk(tmp_path: Path) -> None:
    pins = install.read_pins()
    own = Environment(tmp_path)
    own.folder.mkdir()
    (own.folder / "half").write_bytes(b"x" * 10_000)
    assert install._needed(own, pins, ["dependencies"], False) == pins.setup_bytes
    assert install._needed(own, pins, ["dependencies"], True) == pins.setup_bytes - 10_000


def test_a_python_with_the_libraries_but_no_environment_is_told_what_its_tests_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[project]\ndependencies = ["pytest"]\n[project.optional-dependencies]\ntest = ["zzz>1"]\n'
    )
    (tmp_path / "pyproject.toml").write_text(text + "[tool.werkbank]\nsetup-bytes = 1\n")
    monkeypatch.setattr(install, "running_is_virtual", lambda: False)
    assert install.ensure(tmp_path, test=False, talk=Talk()) == sys.executable
    with pytest.raises(SetupFailed, match='-m pip install "zzz>1"'):
        install.ensure(tmp_path, test=True, talk=Talk())
