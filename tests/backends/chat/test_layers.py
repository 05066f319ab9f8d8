"""A model in two places: the same numbers as in one, with adapters too.

Without a GPU the part that waits does so on the disk: the same hooks of accelerate fetch it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from backends.adapter_use import AdapterUse
from backends.base import ModelRef, Refused
from backends.chat import layers
from backends.chat.peft_adapters import PeftAdapters
from backends.chat.transformers_chat import TransformersChat, TransformersOptions
from backends.models import library
from backends.models.opening import open_model
from tests.backends.chat import made, talk

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STARTER = ModelRef.parse("starter:smollm2-135m-instruct-safetensors")


def test_all_but_the_last_layers_are_near() -> None:
    places = layers.device_map(library.prepare(STARTER), 28)
    assert [k for k, v in places.items() if v == "cpu"] == ["model.layers.28", "model.layers.29"]
    near = {k for k, v in places.items() if v == 0}
    assert {"model.embed_tokens", "model.norm", "lm_head", "model.layers.0"} <= near
    assert len(places) == 30 + len(near) - 28


def test_a_divided_model_gives_the_same_numbers_and_takes_adapters() -> None:
    import torch

    path = library.prepare(STARTER)
    ids = torch.tensor([[1, 4093, 198, 2020, 5]])

    def logits(model: Any) -> Any:
        with torch.inference_mode():
            return model(ids).logits

    def attach(model: Any, *uses: AdapterUse) -> None:
        talk.drained(PeftAdapters(model, "it").use(uses))

    _, whole = open_model(path, {"": "cpu"}, "fp32")
    folder = made.peft_adapter(library.models_folder() / "divided", whole, 6)
    _, divided = open_model(path, layers.device_map(path, 12, "cpu", "disk"), "fp32")
    waiting = divided.model.layers[20].self_attn.q_proj
    assert waiting.weight.device.type == "meta", "it is not in memory between two uses"
    base = logits(whole)
    assert torch.equal(logits(divided), base)
    use = AdapterUse("folder:divided", 1.0)
    attach(whole, use)
    attach(divided, use)
    assert torch.equal(logits(divided), logits(whole)) and not torch.equal(logits(whole), base)
    attached = divided.model.layers[20].self_attn.q_proj
    assert attached.lora_A["adapter1"].weight.device.type == "cpu"
    shutil.rmtree(folder)


def test_on_a_cpu_nothing_is_divided() -> None:
    backend = TransformersChat()
    assert backend._places(library.prepare(STARTER), "cpu", 3) == {"": "cpu"}
    assert TransformersOptions().gpu_layers == -1


def test_a_model_without_a_row_of_layers_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10)
    config.save_pretrained(tmp_path / "m")
    places = layers.device_map(tmp_path / "m", 1)
    assert places["transformer.h.0"] == 0 and places["transformer.h.1"] == "cpu"
    transformers.MambaConfig(num_hidden_layers=3, vocab_size=9, hidden_size=8).save_pretrained(
        tmp_path / "n"
    )
    try:
        assert layers.device_map(tmp_path / "n", 1)["backbone.layers.2"] == "cpu"
    except Refused as refused:
        assert "cannot be divided" in refused.message
