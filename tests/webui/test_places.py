"""Clearing the cache gives back what can be made again, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from webui.places import clear_made, folder_bytes, made_bytes, places


def test_only_what_is_made_again_goes_and_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, mine = tmp_path / "cache", tmp_path / "mine"
    monkeypatch.setenv("WERKBANK_CACHE", str(cache))
    for file in (cache / "converted" / "x" / "m.safetensors", cache / "adapters" / "a.gguf",
                 cache / "other.txt", mine / "letter.txt"):  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 1000)
    (cache / "adapters" / "out").symlink_to(mine, target_is_directory=True)
    assert made_bytes() == 2000
    assert clear_made([]) == 2000
    assert made_bytes() == 0
    assert (cache / "other.txt").exists() and (mine / "letter.txt").exists()
    assert clear_made([]) == 0


def test_sizes_count_files_once_and_a_missing_folder_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_bytes(b"x" * 10)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    assert folder_bytes(tmp_path) == 10 and folder_bytes(tmp_path / "none") == 0
    assert [p.bytes for p in places(tmp_path)][0] == 10
