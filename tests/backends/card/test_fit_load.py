"""What a load takes: against transformers' own models, bitsandbytes, and real workers here."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS
from backends.base import ModelRef
from backends.card import fit_load, shapes
from backends.card.fit_load import predict, tensor_bytes, weight_bytes
from backends.card.plan import LoadPlan
from backends.card.shapes import Tensor
from backends.card.source import of_config, read_source
from backends.events import Done
from backends.models import library
from backends.params import read
from backends.runtime.supervisor import Supervisor
from tests.backends.card.real_shapes import SHAPES, real

GB = 2**30
GGUF = "starter:smollm2-135m-instruct"
COPY = "starter:smollm2-135m-instruct-safetensors"
NF4_12GB = LoadPlan("transformers", "nf4", "cuda:0", 4096)


def skeleton(name: str) -> Any:
    """The model as transformers makes it, without memory."""
    import torch
    import transformers

    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(real(name))


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_alone_tells_every_weight(name: str) -> None:
    model = skeleton(name)
    ours = of_config(SHAPES[name])
    assert ours
    assert sum(t.count for t in ours.tensors) == sum(p.numel() for p in model.parameters())
    assert weight_bytes(ours.tensors, "bf16", on_gpu=False) == 2 * sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_quantised_is_what_transformers_hands_to_bitsandbytes(name: str) -> None:
    """Told from the config, and from the names of the tensors in a file."""
    from transformers.quantizers.base import get_keys_to_not_convert

    model = skeleton(name)
    kept = get_keys_to_not_convert(model)
    theirs = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if type(module).__name__ == "Linear" and not any(key in path for key in kept)
    }
    tied = set(model.all_tied_weights_keys)
    by_name = {
        n for n, p in model.named_parameters()
        if n not in tied and shapes.kind_of(n, tuple(p.shape)) == "linear"
    }  # fmt: skip
    assert by_name == theirs
    ours = of_config(SHAPES[name])
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    assert ours
    assert sum(t.count for t in ours.tensors if t.kind == "linear") == sum(map(sizes.get, theirs))


@pytest.mark.parametrize("shape", [(256, 512), (96, 80), (1536, 576)])
def test_packed_matrices_have_bitsandbytes_own_bytes(shape: tuple[int, int]) -> None:
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Int8Params

    weight, tensor = torch.randn(shape), Tensor("q", shape, "linear")
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    scales = (state.absmax, state.state2.absmax, state.state2.code, state.code, state.offset)
    whole = packed.nbytes + sum(t.nbytes for t in scales)
    assert tensor_bytes(tensor, "nf4", on_gpu=False) == whole
    eight = Int8Params(weight.half(), requires_grad=False).to("cpu")
    assert tensor_bytes(tensor, "int8", on_gpu=False) == eight.data.nbytes + eight.SCB.nbytes


def test_a_card_rounds_each_piece_up() -> None:
    odd = Tensor("n", (10, 7), "other")
    assert tensor_bytes(odd, "bf16", on_gpu=False) == 140
    assert tensor_bytes(odd, "bf16", on_gpu=True) == 512


# The cache


def test_the_cache_is_what_transformers_holds() -> None:
    import torch
    import transformers

    small = {
        "gemma3_text": dict(head_dim=32, sliding_window=16, sliding_window_pattern=3),
        "llama": {},
        "mistral": dict(sliding_window=16),
    }
    for family, more in small.items():
        config = dict(
            model_type=family, vocab_size=64, hidden_size=128, intermediate_size=128,
            num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, **more,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        )
        with torch.inference_mode():
            past = None
            for _ in range(5):
                chunk = torch.zeros(1, 8, dtype=torch.long)
                past = model(chunk, past_key_values=past, use_cache=True).past_key_values
        held = sum(t.untyped_storage().nbytes() for la in past.layers for t in (la.keys, la.values))
        shape = shapes.of_config(config)
        assert shape and fit_load.cache_bytes(shape, 40, 4, chunk=8) == pytest.approx(
            held, rel=0.05
        ), family


def test_latent_attention_is_counted_by_library() -> None:
    """DeepSeek's: transformers keeps what it makes of the latent numbers, llama.cpp keeps them."""
    config = dict(
        model_type="deepseek_v2", vocab_size=64, hidden_size=128, num_hidden_layers=2,
        num_attention_heads=4, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16,
    )  # fmt: skip
    shape = shapes.of_config(config)
    assert shape and fit_load.cache_bytes(shape, 100) == 2 * 100 * 4 * (24 + 16) * 2
    assert shape.latent == 40


# Predictions


def test_quantisation_decides_whether_a_13b_model_fits_12_gb() -> None:
    model = of_config(SHAPES["Llama 2 13B"])
    assert model
    assert 9 * GB < predict(model, NF4_12GB).total < 11.3 * GB
    assert predict(model, replace(NF4_12GB, quantisation="int8")).total > 15 * GB
    divided = predict(model, replace(NF4_12GB, quantisation="bf16", gpu_layers=11))
    assert divided.total < 12.5 * GB and divided.ram > 15 * GB


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_more_never_needs_less(name: str, device: str) -> None:
    model = of_config(SHAPES[name])
    assert model
    for quantisation in ("fp32", "bf16", "int8", "nf4"):
        plans = [
            LoadPlan("transformers", quantisation, device, context)
            for context in (256, 1024, 4096, 8192, 32768)
        ]
        sizes = [predict(model, plan).total for plan in plans]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
        assert sum(dict(predict(model, plans[0]).parts).values()) == sizes[0]
    order = [
        predict(model, LoadPlan("transformers", q, device, 4096)).total
        for q in ("nf4", "int8", "bf16", "fp32")
    ]
    assert order[2] < order[3] and (device == "cpu" or order == sorted(order))
    if device != "cpu":
        whole = predict(model, NF4_12GB).total
        fewer = [
            predict(model, replace(NF4_12GB, gpu_layers=n)) for n in range(0, model.shape.layers, 4)
        ]  # type: ignore[union-attr]
        assert [p.total for p in fewer] == sorted(p.total for p in fewer)
        assert fewer[0].total < whole and fewer[0].ram > fewer[-1].ram


def test_an_unknown_family_has_exact_weights_and_says_so(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {
            "model.embed_tokens.weight": torch.zeros(64, 32),
            "model.layers.0.mixer.in_proj.weight": torch.zeros(96, 32),
            "model.norm.weight": torch.zeros(32),
        },
        tmp_path / "model.safetensors",
    )
    config = {"model_type": "hyena", "hidden_size": 32, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = predict(read_source(tmp_path), LoadPlan("transformers", "bf16", "cpu"))
    assert found.uncertain and "not known" in found.note
    assert found.part("weights") == 2 * (64 * 32 + 96 * 32 + 32) and not found.part("cache")


@pytest.mark.alone
def test_a_prediction_takes_milliseconds() -> None:
    path = library.locate(ModelRef.parse(GGUF))
    began = time.perf_counter()
    predict(read_source(path), LoadPlan("llama_cpp"))
    assert time.perf_counter() - began < 0.05
    model = of_config(SHAPES["Llama 2 13B"])
    assert model
    began = time.perf_counter()
    predict(model, NF4_12GB)
    assert time.perf_counter() - began < 0.05


# Against real loads


CELLS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama_cpp", GGUF, {}),
    ("llama_cpp", GGUF, {"context_length": 2048}),
    *(("transformers", COPY, {"device": "cpu", "quantisation": q}) for q in
      ("fp32", "bf16", "nf4", "int8")),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "model", "options"), CELLS)
def test_a_worker_holds_what_was_foretold(
    home: Path, backend: str, model: str, options: dict[str, Any]
) -> None:
    card = BACKENDS[backend].card
    plan = card.plan(read(card.load_options, options), "cpu", 8192)
    assert plan

    async def held() -> int:
        supervisor = Supervisor(home, spare=False)
        try:
            resident = supervisor.admit(backend, model, options, model)
            events = [event async for event in supervisor.load(resident)]
            assert isinstance(events[-1], Done), events
            return resident.held_bytes
        finally:
            await supervisor.stop()

    took = asyncio.run(held())
    source = read_source(library.locate(ModelRef.parse(model)))
    said = predict(source, plan, card.memory_base).held
    assert abs(said - took) < max(60e6, took / 10), f"{said / 1e6:.0f} MB, took {took / 1e6:.0f}"
    print(f"{backend} {options}: said {said / 1e6:.0f} MB, took {took / 1e6:.0f} MB")
