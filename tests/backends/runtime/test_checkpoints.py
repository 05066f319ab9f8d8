"""Checkpoints: a sealed one is sound, anything done to it shows, and resume takes the best left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.runtime import checkpoints
from backends.runtime.checkpoints import MANIFEST, newest, rotate, seal, verify
from backends.runtime.disk import read_json, write_json

FILES = ("adapter.safetensors", "optimizer.pt", "state/rng.json", "leer.txt", MANIFEST)


def made(home: Path, step: int, sealed: bool = True) -> Path:
    folder = home / "checkpoints" / checkpoints.name_of(step)
    (folder / "state").mkdir(parents=True)
    for name in FILES[:-1]:
        (folder / name).write_bytes(b"" if name == "leer.txt" else f"{name} {step}".encode() * 50)
    if sealed:
        seal(folder)
    return folder


def delete(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] if data else b"x")  # an empty one can only have grown


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes() or b"\0")
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_sealed_one_is_sound_wherever_it_is_moved(home: Path) -> None:
    folder = made(home, 10)
    assert verify(folder) == "" and newest(home / "checkpoints") == folder
    moved = folder.rename(home / "step-000010")
    assert verify(moved) == ""
    names = [entry["name"] for entry in read_json(moved / MANIFEST)["files"]]
    assert names == sorted(FILES[:-1])
    seal(moved)
    assert verify(moved) == ""


@pytest.mark.parametrize("damage", [delete, truncate, flip])
@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_the_newest_takes_the_one_before(
    damage: Callable[[Path], None], name: str, home: Path
) -> None:
    before, torn = made(home, 9), made(home, 100)
    damage(torn / name)
    wrong = verify(torn)
    assert wrong.endswith(".") and name in wrong
    assert newest(home / "checkpoints") == before
    assert not torn.exists() and (home / "checkpoints" / "broken" / "step-000100").is_dir()
    assert newest(home / "checkpoints") == before


def test_one_that_was_never_finished_is_set_aside_each_time(home: Path) -> None:
    for _ in range(3):
        made(home, 7, sealed=False)
        assert newest(home / "checkpoints") is None
    aside = sorted(p.name for p in (home / "checkpoints" / "broken").iterdir())
    assert aside == ["step-000007", "step-000007-2", "step-000007-3"]


def test_the_newest_is_the_highest_step_and_nothing_else_is_one(home: Path) -> None:
    assert newest(home / "checkpoints") is None
    high = made(home, 1_000_000)
    made(home, 999_999)
    (home / "checkpoints" / "step-final").mkdir()
    (home / "checkpoints" / "step-2000000").write_text("a file")
    assert newest(home / "checkpoints") == high


def test_a_manifest_cannot_name_what_lies_outside(home: Path) -> None:
    folder = made(home, 3)
    outside = home / "checkpoints" / "secret"
    outside.write_text("x")
    sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    write_json(folder / MANIFEST, {"files": [{"name": "../secret", "size": 1, "sha256": sha}]})
    assert verify(folder) == "../secret is missing."


def test_rotation_keeps_the_newest_the_pinned_and_what_is_not_finished(home: Path) -> None:
    for step in (10, 20, 30, 40):
        made(home, step)
    made(home, 50, sealed=False)
    gone = rotate(home / "checkpoints", 2, pinned={10})
    assert [folder.name for folder in gone] == ["step-000020"]
    left = [checkpoints.step_of(p) for p in checkpoints.steps(home / "checkpoints")]
    assert left == [10, 30, 40, 50]
    rotate(home / "checkpoints", 0)
    left = [checkpoints.step_of(p) for p in checkpoints.steps(home / "checkpoints")]
    assert left == [40, 50], "the last sound one is never deleted"


def test_what_a_kill_left_of_a_deletion_is_no_checkpoint_and_goes(home: Path) -> None:
    left = made(home, 5).rename(home / "checkpoints" / ".going-step-000005")
    made(home, 6)
    assert newest(home / "checkpoints") == home / "checkpoints" / "step-000006"
    rotate(home / "checkpoints", 3)
    assert not left.exists()


def test_the_room_for_the_next_one_is_twice_the_last_and_a_reserve(home: Path) -> None:
    folder = made(home, 5)
    assert checkpoints.size_of(folder) == sum(
        entry["size"] for entry in read_json(folder / MANIFEST)["files"]
    )
    assert checkpoints.free_bytes_needed(10**9) == 2_500_000_000
