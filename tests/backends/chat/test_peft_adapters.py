"""Adapters on a transformers model: the library's own numbers, and the base to the last bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.adapter_use import AdapterUse
from backends.base import ModelRef, Refused
from backends.chat.transformers_chat import TransformersChat, TransformersOptions
from backends.events import Progress
from backends.models import library
from tests.backends.chat import made, talk

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STARTER = ModelRef.parse("starter:smollm2-135m-instruct-safetensors")
GREEDY = {"temperature": 0, "max_new_tokens": 12}
BRIEF = {"temperature": 0, "max_new_tokens": 2}  # where only what is attached counts


@pytest.fixture(scope="module")
def adapters() -> Iterator[Path]:
    """HOME/models with `one`, `two` and `dora` for the starter."""
    import transformers

    folder = library.models_folder()
    base = transformers.AutoModelForCausalLM.from_pretrained(library.prepare(STARTER))
    made.peft_adapter(folder / "one", base, 1)
    made.peft_adapter(
        folder / "two", base, 2, r=4, use_rslora=True, target_modules=["q_proj", "down_proj"]
    )
    made.peft_adapter(folder / "dora", base, 3, use_dora=True, target_modules=["v_proj"])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def backend() -> Iterator[TransformersChat]:
    one = TransformersChat()
    one.load(STARTER, TransformersOptions(device="cpu"))
    yield one
    one.unload()


def use(*pairs: tuple[str, float]) -> tuple[AdapterUse, ...]:
    return tuple(AdapterUse(f"folder:{name}", weight) for name, weight in pairs)


def answer(backend: TransformersChat, *pairs: tuple[str, float], **given: Any) -> str:
    return talk.answer(backend, talk.STORY, adapters=use(*pairs), **{**GREEDY, **given})[0]


LIBRARY = """
import json, sys, peft, transformers
base, folder, asked, text = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
said = []
for weights in asked:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    names = list(weights)
    model = peft.PeftModel.from_pretrained(model, f"{folder}/{names[0]}", adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(f"{folder}/{name}", adapter_name=name)
    model.base_model.set_adapter(names)
    for name, weight in weights.items():
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.set_scale(name, weight)
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    said.append(tokenizer.decode(out[0, ids.input_ids.shape[1]:], skip_special_tokens=True))
print(json.dumps(said))
"""
MIXES = ((("one", 1.0),), (("one", 0.5), ("two", -1.5)), (("dora", 1.0),))


@pytest.fixture(scope="module")
def by_the_library(backend: TransformersChat, adapters: Path) -> dict[Any, str]:
    """What PEFT alone answers with each mix, each on a model read anew, in one other process."""
    text = backend.template.render(talk.ask(talk.STORY).conversation())
    asked = json.dumps([dict(mix) for mix in MIXES])
    out = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(library.prepare(STARTER)), str(adapters), asked, text],
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    return dict(zip(MIXES, json.loads(out.stdout.splitlines()[-1]), strict=True))


def test_weight_one_is_the_librarys_own_answer_and_weight_zero_the_bases(
    backend: TransformersChat, by_the_library: dict[Any, str]
) -> None:
    base = answer(backend)
    with_it = answer(backend, ("one", 1.0))
    assert with_it != base
    assert with_it == by_the_library[MIXES[0]]
    assert answer(backend, ("one", 0.0)) == base
    assert answer(backend) == base


def test_several_with_weights_are_added_as_the_library_adds_them(
    backend: TransformersChat, by_the_library: dict[Any, str]
) -> None:
    both = answer(backend, *MIXES[1])
    assert both not in (answer(backend, ("one", 0.5)), answer(backend))
    assert both == by_the_library[MIXES[1]]


def test_numbers_of_the_base_are_the_same_to_the_last_bit(
    backend: TransformersChat, adapters: Path
) -> None:
    import torch

    ids = torch.tensor([backend.tokenizer.encode(talk.HARD)])

    def logits() -> Any:
        with torch.inference_mode():
            return backend.model(ids).logits

    answer(backend, **BRIEF)
    before = logits()
    answer(backend, ("one", 1.0), **BRIEF)
    assert not torch.equal(logits(), before)
    answer(backend, ("one", 0.0), **BRIEF)
    assert torch.equal(logits(), before)
    for _ in range(2):
        answer(backend, **BRIEF)
        assert torch.equal(logits(), before)
    assert not any("lora" in name for name, _ in backend.model.named_parameters())


def test_only_a_new_adapter_is_read_and_a_weight_is_not(
    backend: TransformersChat, adapters: Path
) -> None:
    def notes(*pairs: tuple[str, float]) -> list[str]:
        found = talk.events(backend, talk.STORY, adapters=use(*pairs), **BRIEF)
        return [e.note for e in found if isinstance(e, Progress) and "attaching" in e.note]

    answer(backend, **BRIEF)
    assert notes(("one", 1.0)) == ["attaching the adapter one"]
    weights = backend.model.get_submodule("model.layers.0.self_attn.q_proj").base_layer.weight
    assert notes(("one", 0.3)) == [] and notes(("one", 0.0)) == []
    assert notes(("one", 1.0), ("two", 1.0)) == ["attaching the adapter two"]
    assert notes(("two", 1.0)) == []
    assert notes() == [] and notes(("two", 1.0)) == [], "two answers side by side take turns"
    answer(backend, **BRIEF)
    answer(backend, **BRIEF)
    assert backend.model.get_submodule("model.layers.0.self_attn.q_proj").weight is weights


def test_what_was_read_with_other_weights_is_not_used_again(
    backend: TransformersChat, adapters: Path
) -> None:
    fresh = answer(backend, ("one", 0.7))
    answer(backend, ("one", 1.0))  # the same prompt, whose start would be reused
    assert answer(backend, ("one", 0.7)) == fresh
    answer(backend, ("one", 0.7))
    kept = backend.loop.kept
    answer(backend, ("one", 0.7))
    assert kept is not None and backend.loop.kept is not None
    assert backend.loop.kept.past is kept.past, "the same weights use what was read"


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_quantised_bases_take_adapters_too(adapters: Path, quantisation: str) -> None:
    backend = TransformersChat()
    backend.load(STARTER, TransformersOptions(device="cpu", quantisation=quantisation))
    try:
        few = {"max_new_tokens": 4}
        base = answer(backend, **few)
        assert answer(backend, ("one", 1.0), **few) != base
        assert answer(backend, ("one", 0.0), **few) == base
        assert answer(backend, **few) == base
    finally:
        backend.unload()


def test_an_adapter_for_another_base_is_named_and_refused_and_the_rest_works(
    backend: TransformersChat, adapters: Path
) -> None:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100,
    )  # fmt: skip
    small = transformers.LlamaForCausalLM(config)
    made.peft_adapter(adapters / "small", small)
    made.change_config(adapters / "small", base_model_name_or_path="somebody/Small")
    base = answer(backend)
    with pytest.raises(Refused, match=r"made for somebody/Small \(hidden size 64\).*size 576"):
        answer(backend, ("small", 1.0))
    deeper = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 31}
    config = transformers.LlamaConfig(
        **deeper, num_attention_heads=9, num_key_value_heads=3, vocab_size=9
    )
    made.peft_adapter(adapters / "deep", transformers.LlamaForCausalLM(config))
    with pytest.raises(Refused, match=r"has no layer model\.layers\.30"):
        answer(backend, ("one", 1.0), ("deep", 1.0))
    assert answer(backend) == base
    one = answer(backend, ("one", 1.0))
    with pytest.raises(Refused):
        answer(backend, ("one", 1.0), ("two", 1.0), ("deep", 1.0))
    assert answer(backend, ("one", 1.0)) == one, "what came before the refused one is not active"


def test_an_adapter_that_changed_on_the_disk_is_read_again(
    backend: TransformersChat, adapters: Path
) -> None:
    shutil.copytree(adapters / "two", adapters / "changing")
    first = answer(backend, ("changing", 1.0))
    shutil.rmtree(adapters / "changing")
    shutil.copytree(adapters / "one", adapters / "changing")
    assert answer(backend, ("changing", 1.0)) == answer(backend, ("one", 1.0)) != first


def test_weight_decomposed_adapters_work_as_in_the_library(
    backend: TransformersChat, by_the_library: dict[Any, str]
) -> None:
    found = answer(backend, *MIXES[2])
    assert found == by_the_library[MIXES[2]] != answer(backend)
