"""A row is all that a preset takes, and a wrong row is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import BACKENDS
from backends.base import ModelRef
from backends.card.source import of_config
from backends.models import library
from backends.models.catalogue import find_row, read_rows

ROW = """
[[model]]
id = "{id}"
title = "A preset"
task = "chat"
ref = "hub:somebody/model@main"
backend = "transformers"
licence = "MIT"
size_mb = 5
"""


TASKS = {"chat", "image", "multimodal", "speech"}
FAMILIES = {
    "Llama", "Mistral", "Phi", "Gemma", "Qwen", "TinyLlama", "SmolLM2", "Stable Diffusion",
    "Latent Diffusion", "Sana", "LLaVA", "BLIP-2", "InstructBLIP", "MiniGPT-4", "Whisper",
    "Wav2Vec2", "SeamlessM4T", "ViT", "ResNet",
}  # fmt: skip


def test_every_row_says_what_people_ask_and_names_a_backend_of_its_task_or_none() -> None:
    rows = read_rows()
    for row in rows:
        assert row.task in TASKS and row.title and row.licence and row.note.endswith("."), row.id
        assert not row.backend or BACKENDS[row.backend].card.task == row.task, row.id
        assert row.ref.kind != "starter" or row.source is not None
        assert row.starter or (row.family and row.parameters), row.id
    assert {row.family for row in rows} >= FAMILIES
    assert {row.id for row in rows} >= {
        "echo", "smollm2-135m-instruct", "smollm2-135m-instruct-safetensors",
    }  # fmt: skip


def test_the_figures_of_every_config_come_to_the_parameters_that_the_row_tells() -> None:
    """One wrong digit of a width, a head or a vocabulary shows in the sum."""
    counted = 0
    for row in read_rows():
        source = of_config(row.config) if row.config else None
        if source and source.shape and source.shape.known:
            own = sum(t.count for t in source.tensors)
            assert own + sum(row.parts.values()) == row.parameters, row.id
            counted += 1
    assert counted >= 20


def test_a_download_is_about_as_large_as_its_weights_in_16_or_32_bits() -> None:
    for row in read_rows():
        if row.ref.kind == "hub" and row.size_mb and row.task != "image":
            of_each = row.size_mb * 1e6 / row.parameters
            assert abs(of_each - 2) < 0.05 or abs(of_each - 4) < 0.05, (row.id, of_each)


def test_a_row_without_a_backend_is_not_offered_for_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--openai--whisper-tiny" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    assert not library.list_models("speech")


def test_starters_carry_the_system_prompt_that_keeps_their_facts_right() -> None:
    row = find_row(ModelRef.parse("starter:smollm2-135m-instruct"))
    assert row is not None and row.system == "You are a helpful assistant."
    assert find_row(ModelRef.parse("starter:nothing")) is None


def test_a_new_row_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(ROW.format(id="mine"))
    (row,) = read_rows(file)
    assert (row.id, str(row.ref), row.system, row.source) == (
        "mine", "hub:somebody/model@main", "", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ROW.format(id="a") * 2, "has the id 'a' twice"),
        (ROW.format(id="a") + 'colour = "red"\n', "unknown key 'colour'"),
        (ROW.format(id="a").replace('task = "chat"', ""), "lacks something"),
    ],
)
def test_a_wrong_row_is_said_by_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_rows(file)
