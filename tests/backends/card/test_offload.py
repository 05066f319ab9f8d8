"""How much of a model fits on a small card, and what it costs: plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from backends.card import offload
from backends.card.offload import Size, Weights, proposal
from backends.chat.transformers_chat import TransformersOptions, weights_of

GB = 2**30
CARD_12 = int(11 * GB)  # what a 12 GB card has free under a desktop
LLAMA_13B = Size(26 * 10**9, 13_000_000_000, 40)


def test_the_share_counts_embeddings_as_a_layer_that_stays() -> None:
    assert offload.share(-1, 40) == offload.share(40, 40) == offload.share(99, 40) == 1
    assert offload.share(0, 40) == pytest.approx(1 / 41)
    assert offload.share(20, 40) == pytest.approx(21 / 41)
    assert offload.share(3, 0) == 1  # a model that does not say how many it has


def test_a_13b_model_in_bf16_fits_a_12_gb_card_in_part_and_says_how_slow() -> None:
    weights = weights_of(TransformersOptions(quantisation="bf16"), LLAMA_13B, "cuda:0")
    assert weights.gpu_bytes == weights.ram_bytes == 26 * 10**9
    found = proposal(weights, 40, CARD_12, 32 * GB)
    assert found is not None and (found.gpu_layers, found.layers) == (14, 40)
    on_gpu = offload.share(found.gpu_layers, 40)
    assert weights.gpu_bytes * on_gpu * 1.2 <= CARD_12
    assert weights.gpu_bytes * offload.share(found.gpu_layers + 1, 40) * 1.2 > CARD_12
    # 16.5 GB through a bus of 12 GB/s, for each token.
    assert 0.6 < found.tokens_per_second < 0.8
    assert "14 of its 40 layers on the GPU" in str(found) and "about 0.7 tokens/s" in str(found)


def test_a_gguf_of_the_same_model_is_computed_where_it_lies_and_is_faster() -> None:
    file = Weights(14 * 10**9, 14 * 10**9)  # Q8_0
    found = proposal(file, 40, CARD_12, 32 * GB, overhead=1.5)
    assert found is not None and 20 <= found.gpu_layers <= 24
    assert 5 < found.tokens_per_second < 7 and "about 6 tokens/s" in str(found)


@pytest.mark.parametrize(
    ("layers", "free", "ram"),
    [
        (0, CARD_12, 64 * GB),  # nothing is known of its layers
        (40, GB // 4, 64 * GB),  # not one layer fits
        (40, CARD_12, 8 * GB),  # the rest has no room in RAM either
    ],
)
def test_nothing_is_proposed_that_would_not_work(layers: int, free: int, ram: int) -> None:
    assert proposal(Weights(26 * 10**9, 26 * 10**9), layers, free, ram) is None


def test_nothing_is_proposed_that_nobody_would_wait_for() -> None:
    huge = Weights(140 * 10**9, 140 * 10**9, offload.PCIE_BANDWIDTH)
    assert proposal(huge, 80, CARD_12, 256 * GB) is None


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
