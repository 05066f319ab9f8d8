"""launch.py from nothing to running: real environments, real pip, wheels made on the spot."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
POSIX = sys.platform != "win32"
BARE = getattr(sys, "_base_executable", sys.executable)  # the Python behind the environment
SLOW_BACKEND = """
import os, pathlib, time, zipfile
METADATA = "Metadata-Version: 2.1\\nName: tiny-slow\\nVersion: 1.0\\n"
WHEEL = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "tiny_slow-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    return info.name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path(os.environ["TINY_MARK"]).touch()
    time.sleep(float(os.environ["TINY_SLEEP"]))
    name, info = "tiny_slow-1.0-py3-none-any.whl", "tiny_slow-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("tiny_slow.py", "")
        wheel.writestr(info + "/METADATA", METADATA)
        wheel.writestr(info + "/WHEEL", WHEEL)
        wheel.writestr(info + "/RECORD", "")
    return name
"""


def make_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", text)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


def make_slow_source(folder: Path) -> None:
    source = folder / "tiny_slow-1.0"
    source.mkdir()
    (source / "backend.py").write_text(SLOW_BACKEND)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny-slow"\nversion = "1.0"\n'
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-slow\nVersion: 1.0\n")
    shutil.make_archive(str(source), "zip", folder, source.name)


class Checkout:
    """A copy of what set-up needs, with requirements as small as a wheel of four files."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.root, self.wheels = folder, wheels
        self.venv = folder / ".venv"
        self.python = self.venv / ("bin/python" if POSIX else "Scripts/python.exe")
        self.log = folder / ".venv.log"

    def fill(self) -> Checkout:
        (self.root / "webui").mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copy(ROOT / "launch.py", self.root)
        for name in ("__init__.py", "cli.py", "suite.py"):
            shutil.copy(ROOT / "webui" / name, self.root / "webui")
        for name in ("setup", "doctor"):
            shutil.copytree(ROOT / "webui" / name, self.root / "webui" / name, ignore=ignore)
        self.want()
        return self

    def want(
        self,
        dependencies: Sequence[str] = ("tiny-lib==1.0",),
        *,
        starter: Sequence[str] = ("tiny-model==0.1",),
        setup_bytes: int = 100_000_000,
    ) -> None:
        """Write pyproject.toml."""
        text = f"""
            [project]
            dependencies = {json.dumps(list(dependencies))}
            [project.optional-dependencies]
            test = ["tiny-test==1.0"]
            [tool.werkbank]
            starter-wheels = {json.dumps(list(starter))}
            setup-bytes = {setup_bytes}
        """
        (self.root / "pyproject.toml").write_text(text, "utf-8")

    def copy(self, folder: Path) -> Checkout:
        shutil.copytree(self.root, folder, symlinks=True)
        return Checkout(folder, self.wheels)

    def command(self, *arguments: str, python: str = BARE) -> list[str]:
        return [python, str(self.root / "launch.py"), *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        """This process's, without its settings of pip: only our wheels can be installed."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VIRTUAL_ENV"))}
        own = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "TINY_MARK": str(self.root / "building"),
            "TINY_SLEEP": "0",
        }
        return clean | own | more

    def launch(
        self, *arguments: str, python: str = BARE, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, python=python),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
            env=self.environment(**more), encoding="utf-8",
        )  # fmt: skip

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=self.environment(**more), encoding="utf-8",
        )  # fmt: skip

    def has(self, module: str) -> bool:
        ran = subprocess.run([self.python, "-c", f"import {module}"], stderr=subprocess.DEVNULL)
        return ran.returncode == 0


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (
        ("tiny_lib", "1.0"), ("tiny_lib", "2.0"), ("tiny_model", "0.1"), ("tiny_test", "1.0"),
        ("tiny_other", "1.0"),
    ):  # fmt: skip
        make_wheel(folder, name, version)
    make_slow_source(folder)
    return folder


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, wheels: Path
) -> tuple[Checkout, subprocess.CompletedProcess[str]]:
    """A checkout under a hard name, and its first start."""
    folder = tmp_path_factory.mktemp("launch") / "Werk bänk 你好"
    checkout = Checkout(folder, wheels).fill()
    return checkout, checkout.launch("doctor")


@pytest.fixture
def done(first: tuple[Checkout, object], tmp_path: Path) -> Checkout:
    """A copy of the checkout after its first start, for this test alone."""
    return first[0].copy(tmp_path / "mein Ördner")


def test_a_first_start_says_what_it_will_do_sets_up_and_hands_over(
    first: tuple[Checkout, subprocess.CompletedProcess[str]],
) -> None:
    checkout, ran = first
    said = ran.stdout
    assert ran.returncode == 0, said + ran.stderr
    assert "100 MB needed" in said and str(checkout.venv) in said
    assert (
        said.index("100 MB needed") < said.index("tiny-lib 1.0 (1 kB)") < said.index("tiny-model")
    )
    assert said.index("Set-up is finished") < said.index("Nothing is wrong that stops Werkbank.")
    assert checkout.has("tiny_lib") and checkout.has("tiny_model")
    assert not checkout.has("tiny_test")
    assert "Successfully installed tiny" in checkout.log.read_text("utf-8")


@pytest.mark.alone
def test_a_second_start_installs_nothing_and_adds_less_than_150_ms(done: Checkout) -> None:
    log = done.log.read_text("utf-8")
    ran = done.launch("doctor")
    assert ran.returncode == 0 and ran.stdout.startswith("This computer")
    assert done.log.read_text("utf-8") == log
    measure = (
        "import os, sys, time; began = time.perf_counter()\n"
        "os.execve = lambda *a: (print(time.perf_counter() - began, flush=True), os._exit(0))\n"
        "sys.argv = ['launch.py']; sys.path.insert(0, os.getcwd())\n"
        "from webui.setup.start import start; start([])"
    )
    command = [BARE, "-S", "-c", measure]
    took = [
        float(subprocess.run(command, cwd=done.root, capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(took) < 0.15


def test_changed_requirements_are_installed_and_nothing_else(done: Checkout) -> None:
    done.want(["tiny-lib==2.0"])
    ran = done.launch("doctor")
    assert ran.returncode == 0, ran.stdout
    assert "tiny-lib 2.0" in ran.stdout and "tiny-model 0.1 (1 kB)" not in ran.stdout
    assert "Made the environment" not in ran.stdout


def test_the_tests_tools_are_added_when_tests_are_asked_for(done: Checkout) -> None:
    ran = done.launch("test", "-k", "nothing")
    assert "tiny-test 1.0" in ran.stdout and "tiny-lib 1.0 (1 kB)" not in ran.stdout
    assert done.has("tiny_test")
    assert (
        "No module named pytest" in ran.stderr
    )  # it got as far as pytest, which is not a wheel here


@pytest.mark.skipif(not POSIX, reason="kill -9 is POSIX")
def test_a_set_up_killed_in_the_middle_continues_with_the_next_start(done: Checkout) -> None:
    done.want(["tiny-lib==1.0", "tiny-slow==1.0", "tiny-other==1.0"])
    mark = done.root / "building"
    killed = done.start("doctor", TINY_SLEEP="1.5")
    while not mark.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    half = next(done.venv.glob("lib/*/site-packages")) / "tiny_other-1.0.dist-info"
    half.mkdir()  # what a pip leaves that dies while it unpacks
    (half / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-other\nVersion: 1.0\n")
    ran = done.launch("doctor")
    assert ran.returncode == 0, ran.stdout
    assert "Another start is setting Werkbank up already." in ran.stdout  # the orphaned pip
    assert done.has("tiny_slow") and done.has("tiny_other")
    assert "tiny-model 0.1 (1 kB)" not in ran.stdout  # that part had its stamp


@pytest.mark.skipif(not POSIX, reason="the lock is tried with POSIX timing")
def test_of_two_starts_at_once_the_second_waits_and_installs_nothing(done: Checkout) -> None:
    done.want(["tiny-lib==1.0", "tiny-slow==1.0"])
    working = done.start("doctor", TINY_SLEEP="1")
    while not (done.root / "building").exists():
        assert working.poll() is None, working.communicate()
        time.sleep(0.02)
    waiting = done.launch("doctor")
    output, _ = working.communicate(timeout=30)
    assert working.returncode == 0 and "Set-up is finished" in output
    assert waiting.returncode == 0
    assert "Another start is setting Werkbank up already." in waiting.stdout
    assert "Set-up is finished" not in waiting.stdout
    assert done.log.read_text("utf-8").count("Building wheel for tiny-slow") == 2  # start, end


@pytest.mark.skipif(not POSIX, reason="Ctrl-C is sent as a signal")
def test_ctrl_c_ends_set_up_with_a_sentence(done: Checkout) -> None:
    done.want(["tiny-slow==1.0"])
    process = done.start("doctor", TINY_SLEEP="20")
    while not (done.root / "building").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)  # a busy machine
    assert process.returncode == 130, output
    assert "Set-up was stopped. Continue it with: " in output
    assert "Traceback" not in output


def test_an_environment_whose_python_is_gone_is_made_anew(done: Checkout) -> None:
    for program in done.python.parent.glob("python*"):
        program.unlink()
    done.python.symlink_to("/nowhere/python3")
    ran = done.launch("doctor")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "does not start any more. Making it anew." in ran.stdout
    assert done.has("tiny_lib") and done.has("tiny_model")


def test_too_little_disk_is_said_in_two_sentences_before_anything_is_made(
    tmp_path: Path, wheels: Path
) -> None:
    checkout = Checkout(tmp_path / "voll", wheels).fill()
    checkout.want(setup_bytes=10**15)
    ran = checkout.launch("serve", "--no-browser")
    assert ran.returncode == 1
    happened, mend = ran.stdout.strip().splitlines()[-2:]
    assert happened.startswith("Set-up needs 1000000 GB on the disk of ")
    assert mend.startswith("Free ") and mend.endswith("launch.py serve --no-browser")
    assert not checkout.venv.exists() and ran.stderr == ""


def test_without_a_network_the_missing_package_and_the_command_are_named(done: Checkout) -> None:
    done.want(["tiny-lib==1.0", "tiny-far==3.0"])
    ran = done.launch(
        "serve", PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1"
    )
    assert ran.returncode == 1
    happened, mend = ran.stdout.strip().splitlines()[-2:]
    assert happened == "The package index cannot be reached, and tiny-far==3.0 is still missing."
    assert mend.startswith("Connect this machine to the network, then continue with: ")
    assert mend.endswith("launch.py serve") or mend.endswith("launch.py' serve")


def test_missing_starter_models_do_not_stop_it_and_are_tried_again(done: Checkout) -> None:
    done.want(starter=["tiny-unknown==0.1"])
    for _ in range(2):
        ran = done.launch("doctor")
        assert ran.returncode == 0
        assert "The starter models are not complete. There is no tiny-unknown==0.1" in ran.stdout
        assert "What could be better" in ran.stdout
    done.want(starter=["tiny-other==1.0"])
    assert "tiny-other 1.0" in done.launch("doctor").stdout
    assert done.has("tiny_other")


def test_in_an_environment_that_has_the_dependencies_no_other_is_made(
    done: Checkout, tmp_path: Path
) -> None:
    bare = Checkout(tmp_path / "second", done.wheels).fill()
    bare.want(starter=["tiny-other==1.0"])
    ran = bare.launch("doctor", "--json", python=str(done.python))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    findings = json.loads(ran.stdout)["findings"]["Installed"]
    assert findings[0]["value"] == f"this Python's own ({done.venv})"
    assert not bare.venv.exists()
    assert done.has("tiny_other")  # a starter model that was missing there was added


def test_a_folder_named_venv_that_is_none_is_left_alone(tmp_path: Path, wheels: Path) -> None:
    checkout = Checkout(tmp_path / "fremd", wheels).fill()
    checkout.venv.mkdir()
    (checkout.venv / "thesis.txt").write_text("two years of work")
    ran = checkout.launch("serve")
    assert ran.returncode == 1
    assert "it is no Python environment." in ran.stdout
    assert (checkout.venv / "thesis.txt").read_text() == "two years of work"


def test_the_doctor_reports_where_set_up_fails(tmp_path: Path, wheels: Path) -> None:
    checkout = Checkout(tmp_path / "krank", wheels).fill()
    checkout.want(setup_bytes=10**15)
    ran = checkout.launch("doctor")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "What is wrong, and what mends it" in ran.stdout
    ran = checkout.launch("doctor", "--json")
    report = json.loads(ran.stdout)
    assert ran.returncode == 1 and report["ok"] is False
    assert report["findings"]["Installed"][0]["value"].startswith("Set-up needs 1000000 GB")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_an_old_python_is_told_which_one_is_needed(version: tuple[int, ...]) -> None:
    pretend = (
        f"import runpy, sys; sys.version_info = {(*version, 'final', 0)}\n"
        f"runpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True)
    number = ".".join(map(str, version[:2]))
    assert ran.returncode == 1
    assert f"Werkbank needs Python 3.11 or newer, and this is Python {number}." in ran.stderr
    assert "Traceback" not in ran.stderr


def test_launch_py_has_no_syntax_that_an_old_python_cannot_read() -> None:
    tree = ast.parse((ROOT / "launch.py").read_text("utf-8"), feature_version=(3, 4))
    new = (ast.JoinedStr, ast.AnnAssign, ast.AsyncFunctionDef, ast.NamedExpr, ast.FunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, new)]


def test_set_up_and_doctor_need_the_standard_library_alone() -> None:
    files = [*ROOT.glob("webui/setup/*.py"), *ROOT.glob("webui/doctor/*.py"), ROOT / "webui/cli.py"]
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    assert len(modules) > 10
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    # -S leaves out site-packages, -I whatever the environment adds.
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
