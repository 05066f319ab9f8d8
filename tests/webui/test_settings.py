"""Settings survive a restart, and no file, folder or value brings the page down."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import gradio as gr
import pytest

from backends.base import Refused
from webui.form import component
from webui.settings import Settings, SettingsFile, allowed_folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "settings.json"


def test_what_is_settled_is_there_after_a_restart_and_a_listener_hears_of_it(file: Path) -> None:
    kept = SettingsFile(file)
    assert kept.value == Settings() and not kept.notice
    heard: list[Settings] = []
    kept.listeners.append(heard.append)
    kept.change(theme="dark", idle_minutes=5, when_idle="unload")
    kept.change(reserve_gb=1.5)
    wanted = Settings(theme="dark", idle_minutes=5, when_idle="unload", reserve_gb=1.5)
    assert SettingsFile(file).value == kept.value == wanted == heard[-1]
    assert kept.change(reserve_gb=None).reserve_gb is None
    assert [p.name for p in file.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"theme": "pink"}', b'{"reserve_gb": NaN}', b"[" * 100_000,
     b'{"folders": ["models"]}', b'{"idle_minutes": "5"}', b" " * 300_000],
)  # fmt: skip
def test_a_broken_file_is_set_aside_and_said(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    kept = SettingsFile(file)
    assert kept.value == Settings()
    (aside,) = file.parent.iterdir()
    assert aside.name in kept.notice and aside.read_bytes() == content
    kept.change(theme="light")
    assert SettingsFile(file).value.theme == "light"


def test_what_a_later_version_wrote_besides_is_passed_over(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"theme": "dark", "new_in_2030": 1}))
    kept = SettingsFile(file)
    assert kept.value.theme == "dark" and not kept.notice


def test_a_wrong_value_changes_nothing_and_says_why(file: Path) -> None:
    kept = SettingsFile(file)
    kept.change(theme="dark")
    with pytest.raises(Refused, match="is 0. Choose a value between 1 and 240"):
        kept.change(theme="light", idle_minutes=0)
    assert kept.value.theme == SettingsFile(file).value.theme == "dark"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes anywhere")
def test_where_the_disk_refuses_the_old_settings_hold(file: Path) -> None:
    kept = SettingsFile(file)
    kept.change(theme="dark")
    file.parent.chmod(0o500)
    with pytest.raises(Refused, match="not saved"):
        kept.change(theme="light")
    file.parent.chmod(0o700)
    assert kept.value.theme == SettingsFile(file).value.theme == "dark"


def test_where_a_folder_stands_in_the_place_of_the_file_it_is_said(file: Path) -> None:
    file.mkdir(parents=True)
    kept = SettingsFile(file)
    assert kept.value == Settings() and kept.notice
    with pytest.raises(Refused, match="not saved"):
        kept.change(theme="light")


def test_a_folder_is_kept_as_it_is_once_links_are_followed(file: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (tmp_path / "link").symlink_to(models, target_is_directory=True)
    kept = SettingsFile(file)
    assert kept.allow(f"  {tmp_path / 'link'} ").folders == (str(models.resolve()),)
    with pytest.raises(Refused, match="allowed already"):
        kept.allow(str(models))
    own = file.parent / "models" / "one"  # its models would be there under a second name, and
    own.mkdir(parents=True)  # one that is loaded by it could be deleted by the other
    for folder in (own, own.parent, file.parent):
        with pytest.raises(Refused, match="own models"):
            kept.allow(str(folder))
    models.rmdir()  # a drive that was unplugged
    assert SettingsFile(file).value.folders == (str(models.resolve()),)
    assert kept.forbid(str(models.resolve())).folders == ()


@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "No folder"), ("models", "no whole path"), ("/", "a whole disk"),
     ("/nowhere/at/all", "There is no folder"), ("/nul\0byte", "There is no folder"),
     ("~nobody-of-that-name/models", "no whole path"), (__file__, "is a file")],
)  # fmt: skip
def test_what_is_no_folder_is_refused_in_two_sentences(typed: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        allowed_folder(typed)
    assert refused.value.hint


def test_a_number_that_may_be_left_out_is_an_empty_box() -> None:
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    box = component(Settings, fields["reserve_gb"], "settings", None)
    assert isinstance(box, gr.Number) and box.value is None and box.maximum is None
    assert isinstance(component(Settings, fields["idle_minutes"], "settings", 15), gr.Slider)
