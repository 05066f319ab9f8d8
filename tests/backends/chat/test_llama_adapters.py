"""Adapters on a llama.cpp model: converted, opened with, weighted; against both libraries."""

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
from backends.chat.llama_cpp import LlamaCpp, LlamaCppOptions
from backends.events import Progress
from backends.models import adapters as on_disk
from backends.models import library, lora_gguf
from backends.models.gguf_header import read_header
from tests.backends.chat import made, talk
from tests.backends.models import crafted

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STARTER = ModelRef.parse("starter:smollm2-135m-instruct")
COPY = ModelRef.parse("starter:smollm2-135m-instruct-safetensors")
SEEDED = {"temperature": 0.8, "seed": 3, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """HOME/models with `one` and `two` for the starter."""
    import transformers

    folder = library.models_folder()
    base = transformers.AutoModelForCausalLM.from_pretrained(library.prepare(COPY))
    made.peft_adapter(folder / "one", base, 1)
    made.peft_adapter(folder / "two", base, 2, r=4, target_modules=["q_proj", "down_proj"])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaCpp]:
    loaded = LlamaCpp()
    loaded.load(STARTER, LlamaCppOptions())
    yield loaded
    loaded.unload()


def use(*pairs: tuple[str, float]) -> tuple[AdapterUse, ...]:
    return tuple(AdapterUse(f"folder:{name}", weight) for name, weight in pairs)


def answer(backend: LlamaCpp, *pairs: tuple[str, float], **given: Any) -> str:
    return talk.answer(backend, talk.STORY, adapters=use(*pairs), **{**SEEDED, **given})[0]


LIBRARY = """
import sys, json, xllamacpp
model, adapters, scales, request = json.loads(sys.argv[1])
given = xllamacpp.CommonParams()
given.model.path = model
given.lora_adapters = [
    xllamacpp.CommonAdapterLoraInfo(a, s) for a, s in zip(adapters, scales)
]
given.n_ctx, given.n_parallel, given.warmup = 8192, 1, False
given.n_batch = given.n_ubatch = 64
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
given.hostnames = [sys.argv[2]]
out = []
server = xllamacpp.Server(given)
server.handle_completions(request, lambda c: out.append(c["choices"][0]["text"]))
sys.stdout.buffer.write("".join(out).encode())
"""


def by_the_library(backend: LlamaCpp, socket: Path, files: list[Path], scales: list[float]) -> str:
    """llama.cpp told of the adapters when it opens, and of nothing in the request."""
    from backends.chat.llama_cpp import request_of

    params = talk.ask(talk.STORY, **SEEDED)
    request = request_of(backend.prompt_of(params.conversation(), params), params, 3, 8192)
    told = json.dumps([str(library.locate(STARTER)), [str(f) for f in files], scales, request])
    out = subprocess.run([sys.executable, "-c", LIBRARY, told, str(socket)], capture_output=True)
    assert out.returncode == 0, out.stderr.decode()[-2000:]
    return out.stdout.decode()


def converted(name: str) -> Path:
    """The GGUF of a PEFT adapter for the starter."""
    adapter = on_disk.read_adapter(library.models_folder() / name)
    header = read_header(library.locate(STARTER))
    names = lora_gguf.gguf_names(adapter, header)
    return lora_gguf.ensure(adapter, header, names, library.cache())


def test_weight_one_is_the_librarys_own_answer_and_weight_zero_the_bases(
    backend: LlamaCpp, folder: Path, tmp_path: Path
) -> None:
    base = answer(backend)
    with_it = answer(backend, ("one", 1.0))
    assert with_it != base
    assert with_it == by_the_library(backend, tmp_path / "a.sock", [converted("one")], [1.0])
    assert answer(backend, ("one", 0.0)) == base
    assert answer(backend) == base
    both = answer(backend, ("one", 0.5), ("two", -1.5))
    files = [converted("one"), converted("two")]
    assert both == by_the_library(backend, tmp_path / "b.sock", files, [0.5, -1.5]) != with_it


def test_the_model_is_opened_again_for_a_new_adapter_only(backend: LlamaCpp, folder: Path) -> None:
    shutil.copytree(folder / "two", folder / "new")
    made.change_config(folder / "new", lora_alpha=31)

    def notes(*pairs: tuple[str, float]) -> list[str]:
        found = talk.events(backend, talk.STORY, adapters=use(*pairs), **SEEDED)
        return [e.note for e in found if isinstance(e, Progress) and "again" in e.note]

    answer(backend, ("one", 1.0), ("two", 1.0))
    server = backend.server
    for pairs in ([("one", 0.5)], [("two", 2.0), ("one", 0.0)], [], [("two", 1.0)]):
        assert notes(*pairs) == [] and backend.server is server
    first = answer(backend, ("two", 1.0))
    assert len(notes(("new", 1.0))) == 1 and backend.server is not server
    assert answer(backend, ("two", 1.0)) == first, "the ones it had are still there"


def test_what_was_read_with_other_weights_is_not_used_again(
    backend: LlamaCpp, folder: Path
) -> None:
    # Without a seed and long enough, the start of a prompt is used again.
    long = {"temperature": 0, "max_new_tokens": 8}

    def ask(*pairs: tuple[str, float]) -> str:
        return talk.answer(backend, talk.FOX * 46, adapters=use(*pairs), **long)[0]

    fresh = ask(("one", 2.0))
    base = ask()
    assert ask(("one", 2.0)) == fresh != base


def tiny_llama(folder: Path) -> Any:
    """A random Llama as a GGUF file in fp32, by llama.cpp's names, and in transformers."""
    import gguf
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=600, max_position_embeddings=512,
        rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2)
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("llama")
    bytes_of = [f"<0x{n:02X}>" for n in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_of, *(chr(0x4E00 + n) for n in range(341))]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 600)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 341])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = lora_gguf.reorder(values, 4 if "q_proj" in name else 2)
        writer.add_tensor(names.get_name(name.removesuffix(".weight")) + ".weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_the_converted_adapter_gives_the_numbers_that_peft_gives(
    folder: Path, tmp_path: Path
) -> None:
    """Token by token, greedily, two implementations of everything: names, rows and scales."""
    import peft
    import torch

    from backends.chat.llama_cpp import Completion

    model = tiny_llama(folder)
    made.peft_adapter(
        folder / "tiny", model, 4, size=0.3, use_rslora=True, rank_pattern={"k_proj": 4},
        alpha_pattern={"v_proj": 5, "lm_head": 3}, target_modules=[*made.ALL, "lm_head"],
    )  # fmt: skip
    backend = LlamaCpp()
    backend.load(ModelRef.parse("folder:tiny.gguf"), LlamaCppOptions(context_length=512))
    prompt = [1, 5, 77, 260, 9, 130, 44]

    def by_llama(weight: float) -> list[int]:
        applied = talk.drained(backend.llama.use(use(("tiny", weight))))
        banned = [[n, False] for n in range(259)]
        request = {"prompt": prompt, "n_predict": 16, "temperature": 0, "stream": True,
                   "logprobs": 1, "logit_bias": banned, **applied}  # fmt: skip
        ids = []
        for chunk in Completion(backend.server, request):
            for entry in (chunk["choices"][0].get("logprobs") or {}).get("content") or ():
                ids.append(entry["id"])
        return ids

    def by_transformers(module: Any) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(16):
                logits = module(ids).logits[0, -1]
                logits[:259] = -torch.inf  # those that end, and half characters
                ids = torch.cat([ids, logits.argmax()[None, None]], 1)
        return ids[0, len(prompt) :].tolist()

    base = by_transformers(model)
    wrapped = peft.PeftModel.from_pretrained(model, folder / "tiny")
    adapted = by_transformers(wrapped)
    assert by_llama(0.0) == base and len(set(base)) > 3
    assert by_llama(1.0) == adapted != base
    backend.unload()


def test_a_gguf_adapter_dropped_in_the_folder_is_attached_as_it_is(
    backend: LlamaCpp, folder: Path
) -> None:
    shutil.copy(converted("two"), folder / "dropped.gguf")
    assert answer(backend, ("dropped.gguf", 1.0)) == answer(backend, ("two", 1.0))
    loaded = LlamaCpp()
    with pytest.raises(Refused, match="is an adapter, not a whole model"):
        loaded.load(ModelRef.parse("folder:dropped.gguf"), LlamaCppOptions())


def test_what_does_not_fit_is_refused_by_name_and_the_model_goes_on(
    backend: LlamaCpp, folder: Path
) -> None:
    import transformers

    base = answer(backend)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100,
    )  # fmt: skip
    small = transformers.LlamaForCausalLM(config)
    made.peft_adapter(folder / "small", small)
    with pytest.raises(Refused, match=r"small was made for .*hidden size 64\).* size 576"):
        answer(backend, ("small", 1.0))
    copy = transformers.AutoModelForCausalLM.from_pretrained(library.prepare(COPY))
    made.peft_adapter(folder / "dora", copy, use_dora=True, target_modules=["v_proj"])
    with pytest.raises(Refused, match=r"dora is weight-decomposed .* Use it with transformers"):
        answer(backend, ("dora", 1.0))
    made.peft_adapter(folder / "head", copy, target_modules=["lm_head"])  # tied to the embeddings
    with pytest.raises(Refused, match=r"has no layer lm_head"):
        answer(backend, ("head", 1.0))
    foreign = {"general.architecture": "qwen2", "general.type": "adapter", "adapter.type": "lora"}
    halves = [
        crafted.tensor("blk.0.attn_q.weight.lora_a", (576, 4)),
        crafted.tensor("blk.0.attn_q.weight.lora_b", (4, 576), 9216),
    ]
    (folder / "foreign.gguf").write_bytes(crafted.gguf(foreign, halves, data=18432))
    with pytest.raises(Refused, match="architecture qwen2, and .* is of llama"):
        answer(backend, ("foreign.gguf", 1.0))
    assert answer(backend) == base


def test_an_opening_that_fails_leaves_the_model_usable(
    backend: LlamaCpp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = answer(backend)
    broken = converted("one").read_bytes()[:-5000]
    file = library.cache() / "adapters" / "broken.gguf"
    file.write_bytes(broken)
    monkeypatch.setattr(lora_gguf, "ensure", lambda *given: file)
    with pytest.raises(Refused, match="could not open .* with the adapters"):
        answer(backend, ("one", 1.0))
    assert answer(backend) == base
