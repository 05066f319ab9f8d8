"""pip's output told to a person, and its failures explained."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from webui.setup.pip_run import Progress, explain
from webui.setup.talk import Talk, clock, size


def told(lines: str, about: int = 50) -> list[str]:
    progress = Progress(about)
    return [text for line in lines.splitlines() if (text := progress.read(line + "\n"))]


def test_each_package_is_one_line_with_its_number_and_size() -> None:
    assert told(
        "Looking in indexes: x\n"
        "Collecting gradio==6.31.*\n"
        "  Downloading gradio-6.31.0-py3-none-any.whl.metadata (16 kB)\n"
        "  Downloading gradio-6.31.0-py3-none-any.whl (31.4 MB)\n"
        "Requirement already satisfied: numpy in ./x (2.4.6)\n"
        "Collecting openai-whisper==20250625\n"
        "  Using cached openai_whisper-20250625.tar.gz (803 kB)\n"
    ) == [
        "  1 of about 50  gradio 6.31.0 (31.4 MB)",
        "  3 of about 50  openai-whisper 20250625 (803 kB)",
    ]


def test_the_total_grows_where_there_are_more_and_is_left_out_where_it_is_not_known() -> None:
    lines = "  Downloading a-1-py3-none-any.whl (1 kB)\n  Downloading b-2-py3-none-any.whl (2 kB)"
    assert told(lines, about=1)[1] == "  2 of about 2  b 2 (2 kB)"
    assert told(lines, about=0) == ["a 1 (1 kB)", "b 2 (2 kB)"]


def test_a_wheel_on_this_disk_is_told_with_its_size(tmp_path: Path) -> None:
    wheel = tmp_path / "mein Ördner" / "torch-2.14.1-cp311-cp311-linux_x86_64.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"x" * 1_500_000)
    assert told(f"Processing {wheel} (from x->y)", about=0) == ["torch 2.14.1 (1.5 MB)"]


def test_a_silent_network_is_told_once() -> None:
    warning = "WARNING: Retrying (Retry(total={n}, connect=None)) after connection broken by 'x'"
    lines = "\n".join(warning.format(n=n) for n in (4, 3, 2, 1, 0))
    assert told(lines) == ["The package index does not answer. Trying again, up to five times."]


@pytest.mark.parametrize(
    ("output", "happened", "mend"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk became full", "Free some space"),
        ("ERROR: [WinError 112] Es steht nicht genug Platz", "The disk became full", "Free some"),
        ("Retrying after 'NewConnectionError'\nERROR: No matching distribution found for b==2",
         "The package index cannot be reached, and b==2 is still missing.", "Connect this machine"),
        ("ERROR: No matching distribution found for b==2", "There is no b==2 for Python 3.",
         "Start with another Python"),
        ("ERROR: Could not install: [Errno 13] Permission denied: '/x'", "Set-up may not write",
         "Start it as the owner"),
        ("ERROR: Cannot install a and b.", "pip ended with exit code 1: Cannot install a and b.",
         "See the.log, then repeat: "),
        ("", "pip ended with exit code 1.", "See the.log"),
    ],
)  # fmt: skip
def test_a_failure_is_two_sentences(output: str, happened: str, mend: str) -> None:
    failure = explain(output.splitlines(), ("a==1", "b==2"), 1, "the.log")
    assert failure.message.startswith(happened)
    assert failure.hint.startswith(mend)


def test_a_pipe_gets_no_colours_and_a_status_only_after_a_silence() -> None:
    out = io.StringIO()
    talk = Talk(out, pause=0.0)
    talk.line("Done.", "green")
    talk.status("  ... downloading")
    Talk(out, pause=60).status("  ... unseen")
    assert out.getvalue() == "Done.\n  ... downloading\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_status_line_that_the_next_line_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    talk = Talk(out)
    talk.status("waiting")
    talk.line("Done.", "green")
    assert out.getvalue() == "\x1b[2mwaiting\x1b[0m\r       \r\x1b[32mDone.\x1b[0m\n"


def test_sizes_and_times_read_as_people_write_them() -> None:
    assert [size(n) for n in (9e9, 73.4e9, 530e6, 1.5e6, 12_000)] == [
        "9.0 GB", "73 GB", "530 MB", "1.5 MB", "12 kB",
    ]  # fmt: skip
    assert (clock(5), clock(65), clock(3600)) == ("0:05", "1:05", "60:00")
