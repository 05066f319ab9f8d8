"""How much of a model fits on a small card, and what it costs: plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from backends.card import offload
from backends.card.offload import Size, Weights
from backends.chat.transformers_chat import TransformersOptions, weights_of

LLAMA_13B = Size(26 * 10**9, 13_000_000_000, 40)


def test_the_share_counts_embeddings_as_a_layer_that_stays() -> None:
    assert offload.share(-1, 40) == offload.share(40, 40) == offload.share(99, 40) == 1
    assert offload.share(0, 40) == pytest.approx(1 / 41)
    assert offload.share(20, 40) == pytest.approx(21 / 41)
    assert offload.share(3, 0) == 1  # a model that does not say how many it has


def test_a_token_takes_as_long_as_moving_what_waits() -> None:
    weights = weights_of(TransformersOptions(quantisation="bf16"), LLAMA_13B, "cuda:0")
    assert weights.gpu_bytes == weights.ram_bytes == 26 * 10**9
    # 16.5 GB through a bus of 12 GB/s, for each token.
    assert 1.3 < offload.seconds_for_a_token(weights, offload.share(14, 40)) < 1.6
    file = Weights(14 * 10**9, 14 * 10**9)  # a GGUF in Q8_0 is computed where it lies
    assert 0.14 < offload.seconds_for_a_token(file, offload.share(22, 40)) < 0.2


@pytest.mark.parametrize(
    ("options", "size", "device", "at_least", "at_most"),
    [
        # True sizes: Llama-2-13B and Llama-3-8B in NF4 have 7.2 and 5.7 GB, in bf16 26 and 16.
        ({}, LLAMA_13B, "cuda:0", 7.0e9, 8.5e9),
        ({}, Size(16 * 10**9, 8_030_000_000, 32), "cuda:0", 5.0e9, 6.0e9),
        ({"quantisation": "int8"}, LLAMA_13B, "cuda:0", 13e9, 14.5e9),
        ({"quantisation": "bf16"}, Size(2 * 10**9), "cuda:0", 2e9, 2e9),
        ({}, LLAMA_13B, "cpu", 52e9, 52e9),
    ],
)
def test_weights_follow_the_quantisation_and_not_the_file(
    options: dict[str, Any], size: Size, device: str, at_least: float, at_most: float
) -> None:
    found = weights_of(TransformersOptions(**options), size, device)
    held = found.ram_bytes if device == "cpu" else found.gpu_bytes
    assert at_least <= held <= at_most


def test_nf4_waits_in_sixteen_bits() -> None:
    found = weights_of(TransformersOptions(gpu_layers=5), LLAMA_13B, "cuda:0")
    assert found.ram_bytes == 2 * LLAMA_13B.parameters and found.gpu_layers == 5
