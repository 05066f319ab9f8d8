"""A model in two places on a real GPU: the same answer as in one, adapters too, and how slow.

    python -m benchmarks.offload_gpu [--layers 24] [--width 2048]

Random weights (no quality), made on the spot. Needs a CUDA GPU, torch, transformers, accelerate,
peft and bitsandbytes. Prints a line per load, the bandwidth of the bus, and exits 1 where an answer
differs that must not.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.adapter_use import AdapterUse
from backends.base import ModelRef
from backends.chat.params import ChatParams, Message
from backends.chat.transformers_chat import TransformersChat, TransformersOptions
from backends.events import Done, Text
from backends.models import library

TOKENS = 16
FEW = 8  # tokens with adapters, which are about what is computed and not about speed


def make(folder: Path, layers: int, width: int) -> None:
    """A random Llama of `layers` layers, and an adapter for it."""
    import peft
    import torch
    import transformers

    from benchmarks.gpu_worker import make_model

    make_model(folder / "tokens", 258, 1)  # its byte-level tokenizer
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=width, intermediate_size=width * 11 // 4, bos_token_id=0,
        num_hidden_layers=layers, num_attention_heads=width // 128, eos_token_id=1,
        num_key_value_heads=width // 128, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder / "big")
    transformers.AutoTokenizer.from_pretrained(folder / "tokens").save_pretrained(folder / "big")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "down_proj"])
    wrapped = peft.get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    wrapped.save_pretrained(folder / "lora", save_embedding_layers=False)


def answer(backend: TransformersChat, tokens: int, *adapters: AdapterUse) -> tuple[str, Any]:
    params = ChatParams(
        messages=(Message("user", "The quick brown fox jumps over the lazy dog."),),
        temperature=0, max_new_tokens=tokens, adapters=adapters,
    )  # fmt: skip
    text, usage = "", {}
    for event in backend.run(params):
        if isinstance(event, Text):
            text += event.delta
        elif isinstance(event, Done):
            usage = event.usage
    return text, usage


def measure(quantisation: str, gpu_layers: int) -> tuple[str, str, str]:
    """Load, ask, and tell: the plain answer, with the adapter, with it at weight 0."""
    import torch

    gc.collect()  # the hooks of a divided model refer to it and it to them
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    backend = TransformersChat()
    started = time.monotonic()
    options = TransformersOptions(device="cuda", quantisation=quantisation, gpu_layers=gpu_layers)
    backend.load(ModelRef.parse("folder:big"), options)
    loaded = time.monotonic() - started
    held = torch.cuda.memory_allocated()
    weights = sum(p.nbytes for p in backend.model.parameters() if p.device.type == "cuda")
    plain, usage = answer(backend, TOKENS)
    use = "folder:lora"
    with_it, _ = answer(backend, FEW, AdapterUse(use, 1.0))
    without, _ = answer(backend, FEW, AdapterUse(use, 0.0))
    print(
        f"{quantisation:5} gpu_layers {gpu_layers:3}  load {loaded:5.1f} s  held {held / 1e9:6.2f} "
        f"GB (weights {weights / 1e9:5.2f})  peak {torch.cuda.max_memory_allocated() / 1e9:6.2f} GB"
        f"  {usage['tokens_per_second']:7.2f} tokens/s  first {usage['first_token_seconds']:.2f} s",
        flush=True,
    )
    backend.unload()
    return plain, with_it, without


def bandwidth() -> None:
    """GB/s from RAM to the GPU, as it lies there and locked."""
    import torch

    plain = torch.empty(2**30, dtype=torch.uint8).fill_(1)
    for name, source in (("ordinary", plain), ("locked", plain.pin_memory())):
        source.cuda()
        torch.cuda.synchronize()
        started = time.monotonic()
        for _ in range(4):
            source.to("cuda")
        torch.cuda.synchronize()
        print(f"copies from {name} memory: {4.3 / (time.monotonic() - started):.1f} GB/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["WERKBANK_HOME"] = home
        make(library.models_folder(), given.layers, given.width)
        bandwidth()
        some = given.layers // 3
        for quantisation in ("bf16", "fp16", "nf4", "int8"):
            whole = measure(quantisation, -1)
            part = measure(quantisation, some)
            if quantisation in ("bf16", "fp16") and whole != part:
                failed.append(f"{quantisation}: divided it answers {part}, whole {whole}")
            for where, (plain, with_it, without) in (("whole", whole), ("divided", part)):
                if not plain.startswith(without):
                    failed.append(f"{quantisation} {where}: weight 0 says {without!r}")
                if with_it == without:
                    failed.append(f"{quantisation} {where}: the adapter changes nothing")
        measure("bf16", 0)
    for line in failed:
        print("FAILED", line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
