"""Files that are replaced whole, by several writers at once, and after a kill."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from backends.runtime.disk import LEFT_SECONDS, is_partial, read_json, write_json


def test_many_writers_of_one_file_leave_one_whole_file(home: Path) -> None:
    file = home / "state.json"
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(40):
                write_json(file, {"by": number, "long": [number] * 5000})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if file.exists():
            told = json.loads(file.read_text("utf-8"))
            assert set(told["long"]) == {told["by"]}
    assert not failed
    assert os.listdir(home) == ["state.json"]


def test_what_a_killed_writer_left_goes_with_a_later_write(home: Path) -> None:
    old, young, other = (home / f".{name}.partial" for name in
                         ("state.json.aa", "state.json.bb", "spec.json.cc"))  # fmt: skip
    for file in (old, young, other):
        file.write_text('{"half')
    past = time.time() - LEFT_SECONDS - 5
    for file in (old, other):
        os.utime(file, (past, past))
    write_json(home / "state.json", {"a": 1})
    assert not old.exists() and young.exists() and other.exists()
    assert read_json(home / "state.json") == {"a": 1}


def test_what_cannot_be_written_leaves_the_old_one_and_nothing_else(home: Path) -> None:
    file = home / "state.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file) == {"a": 1} and os.listdir(home) == ["state.json"]


def test_a_partial_file_is_told_by_its_name() -> None:
    assert is_partial(".manifest.json.1f.partial", "manifest.json")
    assert not is_partial("manifest.json", "manifest.json")
    assert not is_partial(".other.json.1f.partial", "manifest.json")
