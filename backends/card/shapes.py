"""The sizes of a language model, from its config.json or its GGUF metadata, without a library.

`Shape` holds what memory depends on. `tensors(shape)` are the model's weights, one by one, as
transformers makes them: for a model of which only the config is known. Where the files are there,
their headers say it exactly (`kind_of`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.models.gguf_header import Array, Header

Kind = Literal["linear", "embedding", "head", "other"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight. Only those of kind "linear" are quantised: (out, in)."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models differs from Llama. `norms` are those of the width in each layer."""

    gated: bool = True  # a third matrix in the MLP
    fused: bool = False  # one matrix for q, k and v, and one for gate and up
    qkv_bias: bool = False
    biases: bool = False  # at every linear layer
    norms: int = 2
    norm_bias: bool = False
    qk_norm: bool = False
    head_bias: bool = False
    tied: bool = False  # where the config does not say
    defaults: tuple[tuple[str, int], ...] = ()  # of sizes that configs leave out


GEMMA3 = (
    ("num_attention_heads", 8), ("num_key_value_heads", 4), ("head_dim", 256),
    ("vocab_size", 262_208), ("sliding_window", 4096), ("sliding_window_pattern", 6),
)  # fmt: skip
# By model_type, as transformers 5.23 builds them.
FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "gemma": Family(tied=True),
    "gemma2": Family(norms=4, tied=True),
    "gemma3_text": Family(norms=4, qk_norm=True, tied=True, defaults=GEMMA3),
    "phi": Family(gated=False, biases=True, norms=1, norm_bias=True, head_bias=True),
    "phi3": Family(fused=True),
    "gpt_neox": Family(gated=False, fused=True, biases=True, norm_bias=True),
}
# llama.cpp's names for them.
GGUF_NAMES = {"gemma3": "gemma3_text", "phi2": "phi", "gptneox": "gpt_neox"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes. `known`: its family is in the table, so that `tensors` is exact.

    window     tokens that a sliding layer remembers, of which there are `sliding`; 0: none
    key_size   numbers that one layer keeps for a token in the cache, keys, and `value_size` values
    latent     numbers that one layer keeps instead where a library can (MLA); 0: no MLA
    experts    how many of its MLPs work on one token
    """

    family: str
    known: bool
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int = 0
    tied: bool = False
    window: int = 0
    sliding: int = 0
    key_size: int = 0
    value_size: int = 0
    latent: int = 0
    experts: int = 1
    bias: bool = False  # attention_bias of a config
    mlp_bias: bool = False
    long_gelu: bool = False  # its activation is written out in five steps ("gelu_new")
    eager: bool = False  # its attention is computed with the whole matrix of scores

    @property
    def form(self) -> Family:
        return FAMILIES.get(self.family, Family())

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim


def of_config(config: dict[str, Any]) -> Shape | None:
    """From a config.json, of a model with more parts the language model. None where it does not
    say enough."""
    outer = config
    inner = config.get("text_config")
    config = {**inner} if isinstance(inner, dict) else config
    family = str(config.get("model_type", ""))
    if family == "gemma3":
        family = "gemma3_text"
    form = FAMILIES.get(family, Family())
    config = dict(form.defaults) | {k: v for k, v in config.items() if v is not None}
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(config, "num_attention_heads", "n_head")
    vocab = _number(config, "vocab_size")
    if not (hidden and layers and heads and vocab):
        return None
    kv_heads = _number(config, "num_key_value_heads", "num_kv_heads") or heads
    head_dim = _number(config, "head_dim") or hidden // heads
    tied = config.get("tie_word_embeddings", outer.get("tie_word_embeddings", form.tied))
    window, sliding = _sliding(config, family, layers)
    shape = Shape(
        family=family,
        known=family in FAMILIES and not _number(config, "num_local_experts", "num_experts"),
        hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        intermediate=_number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        vocab=vocab, context=_number(config, "max_position_embeddings", "n_positions"),
        tied=bool(tied), window=window, sliding=sliding,
        key_size=kv_heads * head_dim, value_size=kv_heads * head_dim,
        experts=_number(config, "num_experts_per_tok") or 1,
        bias=bool(config.get("attention_bias", family == "gpt_neox")),
        mlp_bias=bool(config.get("mlp_bias", False)),
        long_gelu=config.get("hidden_act", config.get("activation_function")) == "gelu_new",
        eager=bool(config.get("attn_logit_softcapping")),
    )  # fmt: skip
    return _with_latent(shape, config)


def _with_latent(shape: Shape, config: dict[str, Any]) -> Shape:
    """Multi-head latent attention: transformers keeps the keys and values made from it."""
    rank = _number(config, "kv_lora_rank")
    if not rank:
        return shape
    rope = _number(config, "qk_rope_head_dim")
    keys = _number(config, "qk_nope_head_dim") + rope
    values = _number(config, "v_head_dim") or shape.head_dim
    return replace(
        shape, head_dim=keys or shape.head_dim, latent=rank + rope,
        key_size=shape.heads * keys, value_size=shape.heads * values,
    )  # fmt: skip


def of_gguf(header: Header) -> Shape | None:
    """From a GGUF file's metadata. None where it does not say enough."""

    def number(key: str) -> int:
        value = header.of_architecture(key)
        if isinstance(value, Array):  # one for each layer: the first stands for all
            value = next(iter(header.numbers(value)), 0)
        return value if isinstance(value, int) else 0

    hidden, layers = number("embedding_length"), number("block_count")
    heads = number("attention.head_count")
    if not (hidden and layers and heads):
        return None
    tokens = header.values.get("tokenizer.ggml.tokens")
    vocab = number("vocab_size") or (tokens.count if isinstance(tokens, Array) else 0)
    kv_heads = number("attention.head_count_kv") or heads
    keys = number("attention.key_length") or hidden // heads
    values = number("attention.value_length") or keys
    rank, rope = number("attention.kv_lora_rank"), number("rope.dimension_count")
    window = number("attention.sliding_window")
    family = GGUF_NAMES.get(header.architecture, header.architecture)
    names = {t.name for t in header.tensors}
    return Shape(
        family=family, known=family in FAMILIES, hidden=hidden, layers=layers, heads=heads,
        kv_heads=kv_heads, head_dim=keys, intermediate=number("feed_forward_length") or 4 * hidden,
        vocab=vocab, context=number("context_length"), tied="output.weight" not in names,
        window=window, sliding=_sliding_of_gguf(family, layers) if window else 0,
        key_size=kv_heads * keys, value_size=kv_heads * values, latent=rank + rope if rank else 0,
        experts=number("expert_used_count") or 1,
    )  # fmt: skip


def _sliding(config: dict[str, Any], family: str, layers: int) -> tuple[int, int]:
    """The window, and how many layers have it."""
    window = _number(config, "sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    types = config.get("layer_types")
    if isinstance(types, list):
        return window, sum(kind == "sliding_attention" for kind in types)
    if family == "gemma2":
        return window, layers - layers // 2
    if pattern := _number(config, "sliding_window_pattern", "_sliding_window_pattern"):
        return window, layers - layers // pattern
    if family.startswith("qwen"):
        if not config.get("use_sliding_window"):
            return 0, 0
        return window, max(0, layers - _number(config, "max_window_layers"))
    return window, layers


def _sliding_of_gguf(family: str, layers: int) -> int:
    """llama.cpp knows the pattern by the architecture; where it has none, no layer slides."""
    pattern = {"gemma2": 2, "gemma3_text": 6}.get(family, 0)
    return layers - layers // pattern if pattern else 0


def _number(config: dict[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


# The weights, from the config alone


def linears(shape: Shape) -> Iterator[tuple[str, int, int, bool]]:
    """The linear layers of one decoder layer: name, out, in, and whether it has a bias."""
    form, width, queries = shape.form, shape.hidden, shape.queries
    keys = shape.kv_heads * shape.head_dim
    qkv, other = form.qkv_bias or form.biases or shape.bias, form.biases or shape.mlp_bias
    output = shape.bias if shape.family == "gpt_neox" else form.biases or shape.bias
    qkv = shape.bias if shape.family == "gpt_neox" else qkv
    if form.fused:
        yield "qkv", queries + 2 * keys, width, qkv
    else:
        yield "q", queries, width, qkv
        yield "k", keys, width, qkv
        yield "v", keys, width, qkv
    yield "o", width, queries, output
    size = shape.intermediate
    if form.gated and form.fused:
        yield "gate_up", 2 * size, width, other
    elif form.gated:
        yield "gate", size, width, other
        yield "up", size, width, other
    else:
        yield "up", size, width, other
    yield "down", width, size, other


def tensors(shape: Shape) -> list[Tensor]:
    """All weights that transformers makes for a model of a known family."""
    form, width = shape.form, shape.hidden
    found = [Tensor("embed", (shape.vocab, width), "embedding")]

    def norm(name: str, size: int) -> None:
        found.append(Tensor(name, (size,), "other"))
        if form.norm_bias:
            found.append(Tensor(f"{name}.bias", (size,), "other"))

    for layer in range(shape.layers):
        for name, rows, columns, bias in linears(shape):
            found.append(Tensor(f"{layer}.{name}", (rows, columns), "linear"))
            if bias:
                found.append(Tensor(f"{layer}.{name}.bias", (rows,), "other"))
        for index in range(form.norms):
            norm(f"{layer}.norm{index}", width)
        if form.qk_norm:
            norm(f"{layer}.q_norm", shape.head_dim)
            norm(f"{layer}.k_norm", shape.head_dim)
    norm("norm", width)
    if not shape.tied:
        found.append(Tensor("head", (shape.vocab, width), "head"))
    if form.head_bias:
        found.append(Tensor("head.bias", (shape.vocab,), "other"))
    return found


# The weights, from the names in a file

HEADS = ("lm_head", "embed_out", "output_projection", "cls", "classifier")
EMBEDDINGS = ("embed", "wte", "wpe", "shared", "position", "relative_attention_bias")
NO_LINEAR = ("norm", "ln_", "layernorm", "conv", "experts.", "router", "codebook")


def kind_of(name: str, shape: tuple[int, ...]) -> Kind:
    """What a tensor of a checkpoint will be. Matrices of experts are one tensor in transformers 5,
    and stay as they are."""
    if len(shape) != 2 or not name.endswith("weight"):
        return "other"
    parts = name.lower().split(".")
    if any(part in HEADS for part in parts):
        return "head"
    if any(mark in part for mark in EMBEDDINGS for part in parts):
        return "embedding"
    if any(mark in name.lower() for mark in NO_LINEAR):
        return "other"
    return "linear"
