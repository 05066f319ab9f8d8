"""The command line: what it accepts, what it refuses, what each command is given."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.backends import made_jobs
from webui import cli
from webui.setup import chromium, handover, start
from webui.setup.pins import ROOT


@pytest.mark.parametrize(
    "words",
    [[], ["serve"], ["--port", "8000"], ["serve", "--port", "8000"], ["--home", "x"]],
)
def test_no_command_means_serve(words: list[str]) -> None:
    assert cli.parse(words).command == "serve"


def test_serve_reads_its_options() -> None:
    args = cli.parse("serve --host 0.0.0.0 --port 8000 --no-browser --token abc".split())
    assert (args.host, args.port, args.no_browser) == ("0.0.0.0", 8000, True)
    assert (args.token, args.no_token, args.home) == ("abc", False, None)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--port", "http"], "'http' is no port. Use a number from 1 to 65535."),
        (["--port", "65536"], "'65536' is no port."),
        (["--port", "-1"], "'-1' is no port."),
        (["--token", "a", "--no-token"], "not allowed with argument"),
        (["--share", "chat"], "--share and --model go together. Give both, or neither."),
        (["--model", "echo"], "--share and --model go together."),
        (["--share", "models", "--model", "echo"], "invalid choice: 'models'"),
        (["--tok", "a"], "unrecognized arguments"),  # no abbreviations: they would become interface
        (["train"], "train needs a SPEC.json, or --resume with the folder of a job."),
        (["bench", "cooking"], "invalid choice: 'cooking'"),
        (["--home", ""], "'' is no folder. Name one, or leave it out."),
        (["doctor", "--home= "], "' ' is no folder."),
        (["cook"], "invalid choice: 'cook'"),
        (["doctor", "--jsn"], "unrecognized arguments"),
    ],
)
def test_a_wrong_word_is_refused_by_name(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.parse(cli.absolute_paths(words, Path.cwd()))
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if f"\n    {name} " not in text] == []


def test_what_follows_test_goes_to_pytest_as_it_is() -> None:
    words = ["-k", "not slow", "--lf", "tests/webui", "--port", "x"]
    assert cli.parse(["test", *words]).pytest_args == words


def test_a_relative_home_is_meant_from_where_the_user_stands(tmp_path: Path) -> None:
    here = tmp_path / "hier"
    words = cli.absolute_paths(["serve", "--home", "mein Haus", "--port", "1"], here)
    assert words == ["serve", "--home", str(here / "mein Haus"), "--port", "1"]
    assert cli.absolute_paths(["--home=x"], here) == [f"--home={here / 'x'}"]
    absolute = str(tmp_path / "x")
    assert cli.absolute_paths(["--home", absolute], here) == ["--home", absolute]
    assert cli.absolute_paths(["test", "--home", "x"], here) == ["test", "--home", "x"]


def test_bench_is_called_with_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[str] = []
    fake = SimpleNamespace(main=lambda words: given.extend(words) or 3)
    monkeypatch.setitem(sys.modules, "benchmarks.run", fake)
    words = cli.absolute_paths(["bench", "chat", "--hour", "--json", "x.json"], tmp_path)
    assert cli.main(words) == 3
    assert given == ["chat", "--hour", "--json", str(tmp_path / "x.json")]
    given.clear()
    assert cli.main(["bench", "--minutes", "5", "--quick"]) == 3
    assert given == ["--quick", "--minutes", "5"]


def test_serve_is_called_with_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    fake = SimpleNamespace(serve=lambda **options: given.update(options) or 7)
    monkeypatch.setitem(sys.modules, "webui.server", fake)
    assert cli.main(["--home", str(tmp_path), "--no-browser", "--no-token"]) == 7
    tree = ast.parse((ROOT / "webui/server.py").read_text("utf-8"))
    real = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "serve")
    assert set(given) == {argument.arg for argument in real.args.kwonlyargs}
    assert callable(given.pop("tabs"))
    assert given == {
        "host": "127.0.0.1", "port": None, "home": tmp_path, "browser": False, "token": None,
        "no_token": True, "share": None,
    }  # fmt: skip
    assert cli.main(["--share", "chat", "--model", "folder:mine"]) == 7
    assert given["share"] == "folder:mine"


def test_a_training_s_paths_are_meant_from_where_the_user_stands(tmp_path: Path) -> None:
    given = ["train", "mein spec.json", "--home", "x", "--resume=jobs/a"]
    assert cli.absolute_paths(given, tmp_path) == [
        "train", str(tmp_path / "mein spec.json"), "--home", str(tmp_path / "x"),
        f"--resume={tmp_path / 'jobs/a'}",
    ]  # fmt: skip
    assert cli.absolute_paths(["train", "--home", "x", "s"], tmp_path)[3] == str(tmp_path / "s")


def train(*words: str, tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "webui.cli", "train", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": f"{made_jobs.planted(tmp_path)}:{ROOT}"},
    )  # fmt: skip


def test_train_runs_one_job_in_the_terminal_and_resumes_it_after_ctrl_c(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "d.json").write_text("[]")
    file = tmp_path / "spec.json"
    params = {"max_steps": 30, "step_seconds": 0.05, "save_steps": 1000}
    file.write_text(json.dumps(made_jobs.spec(dataset="d.json", params=params)))
    running = train(str(file), "--home", str(home), tmp_path=tmp_path)
    assert running.stdout
    seen = [running.stdout.readline()]
    folder = Path(seen[0].removeprefix("The job is in ").strip())
    assert folder.parent == home / "jobs"
    while not seen[-1].startswith("step 2/30"):
        seen.append(running.stdout.readline())
        assert seen[-1], seen
    words = psutil.Process(running.pid).cmdline()
    assert words[1:4] == ["-m", "backends.train", str(folder)]
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=20)
    assert running.returncode == 1 and "stopped: The job was stopped. Resume goes on" in rest
    assert json.loads((folder / "spec.json").read_text())["dataset"] == str(tmp_path / "d.json")
    again = train("--resume", str(folder), tmp_path=tmp_path)
    rest, _ = again.communicate(timeout=20)
    assert again.returncode == 0 and rest.rstrip().endswith("finished: It is done."), rest
    steps = [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 31))
    once_more = train("--resume", str(folder), tmp_path=tmp_path)
    assert "is finished already" in once_more.communicate(timeout=20)[0]
    assert once_more.returncode == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "There is no file"),
        ("{", "is no JSON"),
        ("[]", "holds no object. Write named values"),
        ('{"method": "x"}', "There is no method 'x'. Choose one of"),
        ('{"method": "echo", "task": "chat", "dataset": "no.json"}', "There is no dataset"),
    ],
)
def test_a_spec_that_cannot_be_run_is_told_in_sentences(
    text: str | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.json"
    if text is not None:
        file.write_text(text)
    assert cli.main(["train", str(file), "--home", str(tmp_path)]) == 1
    assert complaint in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path)]) == 1
    assert "is no job. Name a folder in jobs" in capsys.readouterr().err


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, webui.cli; print(*sorted(m.split('.')[0] for m in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "argparse" in loaded
    assert not loaded & {"gradio", "torch", "fastapi", "uvicorn", "backends", "tabs", "numpy"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows waits for a child instead")
def test_launch_becomes_the_command_in_the_checkout_and_names_no_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "ensure", lambda root, test, talk: "/env/python")
    monkeypatch.setattr(handover.os, "execve", lambda *given: became.append((*given, Path.cwd())))
    start.start(["--home", "daheim", "--port", "7000"], root=tmp_path.parent)
    program, words, environment, folder = became[0]
    expected = ["/env/python", "-m", "webui.cli", "--home", str(tmp_path / "daheim")]
    assert words == [*expected, "--port", "7000"] and program == "/env/python"
    assert folder == tmp_path.parent and environment is handover.os.environ
    assert "backends" not in " ".join(words)


@pytest.mark.parametrize("browser", ["/usr/bin/chromium", ""])
def test_tests_are_told_their_browser_and_its_absence_is_said_loudly(
    browser: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(chromium, "provide", lambda: browser)
    monkeypatch.setattr(handover, "become", lambda *given: became.append(given) or 5)
    assert cli.main(["test", "-x", "tests/webui/test_cli.py"]) == 5
    command, folder, environment = became[0]
    assert command == [sys.executable, "-m", "pytest", "-x", "tests/webui/test_cli.py"]
    assert folder == ROOT and environment[chromium.VARIABLE] == browser
    loud = "!!! NO CHROMIUM, so the browser tests are skipped." in capsys.readouterr().out
    assert loud == (browser == "")
