"""Saved settings: shipped ones that are valid, own ones that survive odd names and broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.base import Refused
from backends.chat.params import ChatParams
from backends.params import read
from webui.presets import Presets


def test_every_shipped_preset_is_valid(home: Path) -> None:
    shipped = Presets(home, "chat").all()
    assert len(shipped) >= 4 and len({p.name for p in shipped}) == len(shipped)
    for preset in shipped:
        read(ChatParams, {**preset.settings, "messages": [{"role": "user", "content": "x"}]})


@pytest.mark.parametrize(
    "name", ["Meine Süße", "../../etc/passwd", "a/b\\c", "CON", "你好", "x" * 60]
)
def test_any_name_is_kept_and_stays_in_its_folder(home: Path, name: str) -> None:
    presets = Presets(home, "chat")
    presets.save(name, {"temperature": 0.3})
    assert Presets(home, "chat").get(name).settings == {"temperature": 0.3}
    [file] = (home / "presets" / "chat").iterdir()
    assert file.suffix == ".json"
    presets.delete(name)
    with pytest.raises(Refused, match="no preset"):
        presets.get(name)


def test_saving_again_replaces_and_two_names_never_share_a_file(home: Path) -> None:
    presets = Presets(home, "chat")
    for name, value in (("ä", 1.0), ("ö", 0.5), ("ä", 0.2)):
        presets.save(name, {"temperature": value})
    own = {p.name: p.settings["temperature"] for p in presets.all() if p.own}
    assert own == {"ä": 0.2, "ö": 0.5}


def test_shipped_ones_are_neither_replaced_nor_deleted(home: Path) -> None:
    presets = Presets(home, "chat")
    for act in (lambda: presets.save("Balanced", {}), lambda: presets.delete("Balanced")):
        with pytest.raises(Refused, match="comes with Werkbank"):
            act()
    for name in ("", "   ", "x" * 61):
        with pytest.raises(Refused, match="Give it a name"):
            presets.save(name, {})


def test_broken_files_are_passed_over(home: Path) -> None:
    presets = Presets(home, "chat")
    presets.save("good", {})
    for i, text in enumerate(("{", "[]", '{"name": 3}', '{"name": "x"}', "[" * 100_000)):
        (home / "presets" / "chat" / f"{i}.json").write_text(text)
    assert [p.name for p in presets.all() if p.own] == ["good"]
