"""`launch.py test`: what is spread over processes, what runs alone, which exit code comes out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from webui import suite
from webui.setup.pins import ROOT

BESIDE = ["-n", "3", *suite.SPREAD, "-m", "not (alone)"]
ALONE = ["-m", "alone"]


@pytest.mark.parametrize(
    "words",
    [[], ["tests/webui"], ["tests/webui", "tests/docs", "-q"], ["-k", "not slow", "-x"],
     ["--maxfail=2", "--durations", "9", "-rA", "--tb=short", "tests"]],
)  # fmt: skip
def test_all_tests_and_folders_are_spread_and_the_delicate_follow_alone(words: list[str]) -> None:
    assert suite.parts(words, ROOT, 3) == [[*BESIDE, *words], [*ALONE, *words]]
    assert suite.parts(words, ROOT, 1) == [words]
    few = ["-n", "2", *suite.SPREAD, "-m", "not (alone or browser)"]
    assert suite.parts(words, ROOT, 2) == [[*few, *words], ["-m", "alone or browser", *words]]


@pytest.mark.parametrize(
    "words",
    [["tests/webui/test_suite.py"], ["tests/webui/test_suite.py::test_x"], ["-n", "0"], ["-n4"],
     ["--collect-only"], ["-x", "--pdb"], ["-m", "model"], ["--lf"], ["-s", "tests/webui"],
     ["--junitxml=x.xml"], ["tests/webui", "tests/webui/test_suite.py"], ["--version"], ["-k"]],
)  # fmt: skip
def test_what_is_one_run_for_pytest_stays_one(words: list[str]) -> None:
    assert suite.parts(words, ROOT, 3) == [words]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([1, 0], 1), ([0, 1], 1), ([0, 5], 0), ([5, 0], 0), ([5, 5], 5), ([5, 1], 1),
     ([2], 2), ([0, -9], -9)],
)  # fmt: skip
def test_the_worse_exit_code_is_the_whole_s(codes: list[int], code: int) -> None:
    assert suite.worst(codes) == code


def project(folder: Path, beside: str = "", alone: str = "") -> Path:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    alone: by itself\n")
    where = 'import os, pytest, time\nwhere = os.environ.get("PYTEST_XDIST_WORKER", "")\n'
    for name in "ab":
        text = f'{where}def test_{name}():\n    open(__file__ + ".ran", "w").write(where)\n'
        (folder / f"test_{name}.py").write_text(f"{text}    {beside}\n")
    text = (
        f'{where}@pytest.mark.alone\ndef test_c():\n    open(__file__ + ".ran", "w").write(where)'
    )
    (folder / "test_c.py").write_text(f"{text}\n    {alone}\n")
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    code = (
        "import os, sys; from pathlib import Path; from webui import suite\n"
        "suite.workers = lambda: 3\n"
        f"sys.exit(suite.run({list(words)!r}, Path({str(folder)!r}), os.environ))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist"},
    )  # fmt: skip


def ran(folder: Path) -> dict[str, str]:
    return {file.name[5]: file.read_text() for file in folder.glob("*.ran")}


@pytest.mark.parametrize(
    ("beside", "alone", "words", "code", "names"),
    [
        ("assert 0", "", [], 1, "abc"),
        ("assert 0", "", ["--maxfail=9"], 1, "ab"),
        ("", "assert 0", [], 1, "abc"),
        ("", "", ["-k", "test_c"], 0, "c"),
    ],
)
def test_both_parts_are_run_each_as_it_should(
    tmp_path: Path, beside: str, alone: str, words: list[str], code: int, names: str
) -> None:
    process = start(project(tmp_path, beside, alone), *words)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    found = ran(tmp_path)
    assert "".join(sorted(found)) == names, out
    assert {found[name] for name in found if name != "c"} <= {"gw0", "gw1", "gw2"}
    assert found.get("c", "") == ""
    assert ("did NOT pass" in out) == (code != 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("whom", ["all", "only the first"])
def test_a_stopped_run_leaves_nothing_running_and_begins_nothing(tmp_path: Path, whom: str) -> None:
    process = start(project(tmp_path, "time.sleep(300)"))
    while len(ran(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    if whom == "all":  # Ctrl-C in a terminal
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    out, _ = process.communicate(timeout=90)  # its workers hold the pipe: they have gone too
    assert process.returncode == (2 if whom == "all" else 143), out
    assert "c" not in ran(tmp_path)
