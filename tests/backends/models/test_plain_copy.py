"""A model that would bring code of its own is usable without it, where its family is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.base import ModelRef, Refused
from backends.models import library, plain_copy, usage
from tests.backends.models import crafted

CODED = {**crafted.CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
REF = ModelRef.parse("hub:somebody/coded")


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WERKBANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--somebody--coded" / "snapshots" / "main"
    crafted.folder(folder, CODED)
    (folder / "modeling_x.py").write_text("raise SystemExit")
    tokenizer = {"auto_map": {"AutoTokenizer": "a/b"}, "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_copy_has_the_same_weights_and_no_code(snapshot: Path) -> None:
    with pytest.raises(Refused, match="auto_map"):
        library.check(REF)
    made = plain_copy.make(REF)
    library.check(made)
    folder = library.locate(made)
    assert folder.name == "coded-plain" and not list(folder.rglob("*.py"))
    assert json.loads((folder / "config.json").read_text()) == crafted.CONFIG
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"model_max_length": 5}
    weights = folder / "model.safetensors"
    assert weights.samefile(snapshot / "model.safetensors")  # no room of its own
    small = sum(f.stat().st_size for f in folder.iterdir() if f.stat().st_nlink == 1)
    assert usage.delete(made) == small > 0 and (snapshot / "model.safetensors").exists()
    assert (snapshot / "config.json").read_text() == json.dumps(CODED)  # the hub's stays
    assert not [p for p in library.models_folder().iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "config",
    [{**CODED, "model_type": "unheard_of"}, crafted.CONFIG, {**CODED, "_attn": "x"}],
)
def test_a_family_of_its_own_and_other_hidden_settings_stay_refused(
    snapshot: Path, config: dict[str, object]
) -> None:
    (snapshot / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused):
        plain_copy.make(REF)
    left = library.models_folder()
    assert not left.exists() or not list(left.iterdir())
