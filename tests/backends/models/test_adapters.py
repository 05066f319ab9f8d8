"""Adapters on the disk: listed with what they are, refused with what is wrong, fitted by shape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.adapter_use import AdapterUse
from backends.base import Refused
from backends.chat.params import ChatParams, Message
from backends.models import adapters, library
from backends.models.adapters import Base, check_fit, list_adapters, read_adapter
from backends.params import read, to_dict
from tests.backends.models import crafted

Q = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
    "base_model_name_or_path": "/somebody/elses/Model-1B",
}  # fmt: skip


@pytest.fixture
def models() -> Iterator[Path]:
    folder = library.models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def tensors(*shapes: tuple[str, int, int]) -> bytes:
    entries, end = {}, 0
    for name, rows, columns in shapes:
        entries[name] = ([rows, columns], [end, end := end + 4 * rows * columns])
    return crafted.safetensors(entries)


def pair(layer: str = Q, *, rank: int = 4, ins: int = 16, outs: int = 12) -> Any:
    return (f"{layer}.lora_A.weight", rank, ins), (f"{layer}.lora_B.weight", outs, rank)


def make(folder: Path, *shapes: tuple[str, int, int], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "adapter_model.safetensors").write_bytes(tensors(*(shapes or pair())))
    return folder


def gguf_lora(architecture: str = "llama", **changed: Any) -> bytes:
    pairs = {"general.architecture": architecture, "general.type": "adapter",
             "adapter.type": "lora", "general.base_model.0.name": "Model 1B"}  # fmt: skip
    halves = [
        crafted.tensor("blk.0.attn_q.weight.lora_a", (16, 4)),
        crafted.tensor("blk.0.attn_q.weight.lora_b", (4, 12), 256),
    ]
    return crafted.gguf({**pairs, **changed}, halves, data=448)


def test_both_formats_are_listed_with_what_they_are_and_not_among_the_models(models: Path) -> None:
    make(models / "mine")
    (models / "other.gguf").write_bytes(gguf_lora())
    (models / "model.gguf").write_bytes(crafted.gguf())
    mine, other = list_adapters()
    assert (mine.id, mine.format, mine.backend) == ("folder:mine", "safetensors", "")
    assert (mine.base, mine.rank, mine.targets) == ("/somebody/elses/Model-1B", 4, ("q_proj",))
    assert (mine.hidden_size, mine.problem) == (16, "") and mine.bytes > 400
    assert (other.id, other.format, other.backend) == ("folder:other.gguf", "gguf", "llama_cpp")
    assert (other.base, other.rank, other.hidden_size) == ("Model 1B", 4, 16)
    assert not {"folder:mine", "folder:other.gguf"} & {m.id for m in library.list_models("chat")}
    assert "folder:model.gguf" in {m.id for m in library.list_models("chat")}


def test_a_pickled_one_is_listed_with_its_problem_and_never_opened(models: Path) -> None:
    folder = make(models / "old")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    (only,) = list_adapters()
    assert "a pickled file that could run code" in only.problem and only.id == "folder:old"
    (folder / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors is missing" in list_adapters()[0].problem


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3, not LORA"),
        ({"bias": "all"}, "changes biases"),
        ({"lora_bias": True}, "uses lora_bias"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "has the pattern"),
        ({"lora_alpha": "much"}, "has the alpha much"),
        ({"lora_alpha": float("nan")}, "has the alpha nan"),
        ({"auto_map": "code.py"}, "auto_map"),
    ],
)
def test_settings_that_cannot_be_attached_are_named(
    models: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        read_adapter(make(models / "odd", **config))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ((("base_model.model.lm_head.weight", 4, 4), *pair()), "whole layer of its own"),
        (pair()[:1], "two halves of .* do not fit"),
        ((pair()[0], pair(rank=5)[1]), "two halves of .* do not fit"),
        ((("base_model.model.x.lora_magnitude_vector", 1, 4),), "holds no LoRA weights"),
    ],
)
def test_weights_that_make_no_adapter_are_refused(models: Path, shapes: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        read_adapter(make(models / "odd", *shapes))


def test_scales_follow_alpha_its_patterns_and_the_rank(models: Path) -> None:
    k = Q.replace("q_proj", "k_proj")
    plain = read_adapter(make(models / "a", *pair(), *pair(k, rank=2)))
    assert [t.scale for t in plain.targets.values()] == [2.0, 4.0]
    pattern = {"alpha_pattern": {"k_proj": 1, "proj": 100}}
    scaled = read_adapter(make(models / "a", *pair(), *pair(k, rank=2), **pattern))
    assert [t.scale for t in scaled.targets.values()] == [2.0, 0.5]
    assert read_adapter(make(models / "b", use_rslora=True)).targets.popitem()[1].scale == 4.0  # type: ignore[attr-defined]


def test_another_base_is_told_by_size_by_layer_and_by_shape(models: Path) -> None:
    adapter = read_adapter(make(models / "mine"))
    layer = "model.layers.0.self_attn.q_proj"
    check_fit(adapter, Base("M", {layer: (16, 12)}, 16))
    for base, words in (
        (Base("M", {layer: (32, 12)}, 32), r"1B \(hidden size 16\), and .* M has the hid.* 32"),
        (Base("M", {"x": (16, 12)}, 16), "-1B, and the loaded model M has no layer model.lay"),
        (Base("M", {layer: (16, 24)}, 16), "is 16 x 12, and that of the loaded model M is 16 x 24"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=words):
            check_fit(adapter, base)


def test_a_gguf_that_is_no_adapter_is_refused(models: Path) -> None:
    file = models / "x.gguf"
    for content, words in (
        (crafted.gguf(), "is a model and not an adapter"),
        (gguf_lora(**{"adapter.type": "control"}), "is not a LoRA"),
    ):
        file.write_bytes(content)
        with pytest.raises(Refused, match=words):
            read_adapter(file)


def test_adapters_of_a_run_are_read_checked_and_written_again() -> None:
    given = {
        "messages": [{"role": "user", "content": "Hi"}],
        "adapters": [{"ref": "folder:mine", "weight": 1}, {"ref": "folder:b", "weight": -0.5}],
    }
    params = read(ChatParams, given)
    assert params.adapters == (AdapterUse("folder:mine", 1.0), AdapterUse("folder:b", -0.5))
    assert read(ChatParams, to_dict(params)) == params
    said = (Message("user", "Hi"),)
    for wrong, words in (
        ([{"ref": "folder:a", "weight": 2.5}], "Weight is 2.5"),
        ([{"ref": "folder:a"}] * 2, "attached twice"),
        ([{"ref": f"folder:{n}"} for n in range(9)], "Attach at most 8"),
    ):
        with pytest.raises(ValueError, match=words):
            read(ChatParams, {**given, "adapters": wrong})
    assert ChatParams(said).adapters == ()
    with pytest.raises(Refused, match="does not name a model"):
        adapters.locate("/etc/passwd")
