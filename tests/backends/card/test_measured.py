"""The file of what loads really took survives crashes, full disks and several writers."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from backends.card.measured import Measured

ROOT = Path(__file__).parents[3]


@pytest.fixture
def measured(tmp_path):
    return Measured(tmp_path / "Ünï côde" / "measured.jsonl")


def test_records_come_back_in_order_and_by_field(measured):
    assert measured.latest() is None
    for model, size in (("a", 1), ("b", 2), ("a", 3)):
        assert measured.append(kind="load", model=model, measured_bytes=size)
    assert [r["measured_bytes"] for r in measured.records(model="a")] == [1, 3]
    assert measured.latest(model="a")["measured_bytes"] == 3
    assert measured.latest(model="c") is None
    assert measured.latest()["time"] > 1.7e9


def test_a_torn_last_line_costs_only_itself(measured):
    measured.append(n=1)
    with open(measured.path, "ab") as file:
        file.write(b'{"n": 2, "mod')
    measured.append(n=3)
    assert [r["n"] for r in measured.records()] == [1, 3]


def test_rubbish_in_the_file_is_skipped(measured):
    measured.append(n=1)
    with open(measured.path, "ab") as file:
        file.write(b"\xff\xfe\x00\n[1]\n\n12\n")
    measured.append(n=2)
    assert [r["n"] for r in measured.records()] == [1, 2]


def test_several_processes_append_whole_lines(measured):
    measured.append(n=-1)
    code = (
        "import sys; from pathlib import Path; from backends.card.measured import Measured\n"
        "m = Measured(Path(sys.argv[1]))\n"
        "for i in range(300): m.append(n=i, text='x' * 200)"
    )
    command = [sys.executable, "-c", code, str(measured.path)]
    writers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    for line in filter(None, measured.path.read_text("utf-8").split("\n")):
        json.loads(line)
    assert len(list(measured.records())) == 901


def test_a_disk_that_refuses_is_logged_and_fails_nothing(measured, caplog):
    measured.path.parent.mkdir()
    measured.path.mkdir()  # a folder cannot be appended to
    with caplog.at_level(logging.WARNING):
        assert measured.append(n=1) is False
    assert "not kept" in caplog.text
