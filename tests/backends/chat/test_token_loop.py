"""The loop around a transformers model, on a tiny one with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from backends.chat.params import ChatParams, Message
from backends.chat.token_loop import Sampler, TokenLoop
from backends.events import Progress

torch = pytest.importorskip("torch")
ASK = (Message("user", "x"),)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def params(**given: Any) -> ChatParams:
    return ChatParams(messages=ASK, **given)


def answer(loop: TokenLoop, prompt: list[int], limit: int = 12, **given: Any) -> list[int]:
    asked = params(**given)
    found = loop.tokens(prompt, asked, max(asked.seed, 0), limit, lambda: False)
    return [t for t in found if isinstance(t, int)]


PROMPT = [(7 * i) % 299 + 1 for i in range(50)]


def test_the_likeliest_tokens_are_those_of_generate(model: Any) -> None:
    ids = torch.tensor([PROMPT])
    whole = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    expected = whole[0, len(PROMPT) :].tolist()
    for chunk in (1, 7, 64):
        assert answer(TokenLoop(model, set(), chunk), PROMPT, temperature=0) == expected


def test_it_ends_at_an_end_token_which_is_the_last(model: Any) -> None:
    free = answer(TokenLoop(model, set(), 64), PROMPT, temperature=0)
    end = free[5]
    assert (
        answer(TokenLoop(model, {end}, 64), PROMPT, temperature=0) == (free[: free.index(end) + 1])
    )


def test_the_same_seed_gives_the_same_answer_whatever_was_said_before(model: Any) -> None:
    loop = TokenLoop(model, set(), 8)
    first = answer(loop, PROMPT, seed=3, temperature=1.5, top_k=0)
    assert answer(loop, PROMPT, seed=3, temperature=1.5, top_k=0) == first
    answer(loop, PROMPT[:20] + [9, 8, 7], temperature=0)
    answer(loop, PROMPT[:37], limit=40, temperature=1.5)
    assert answer(loop, PROMPT, seed=3, temperature=1.5, top_k=0) == first
    assert answer(loop, PROMPT, seed=4, temperature=1.5, top_k=0) != first


def test_what_was_read_is_not_read_again(model: Any) -> None:
    loop, read = TokenLoop(model, set(), 8), []
    forward = loop._forward
    loop._forward = lambda ids, kept: read.append(len(ids)) or forward(ids, kept)  # type: ignore
    said = answer(loop, PROMPT, temperature=0)
    assert sum(read) == len(PROMPT) + len(said) - 1
    read.clear()
    answer(loop, [*PROMPT, *said, 5, 6, 7], limit=1, temperature=0)
    assert sum(read) == 4  # the last token of the answer had not been read yet
    read.clear()
    answer(loop, PROMPT[:30] + [250], limit=1, temperature=0)
    assert sum(read) == 1
    read.clear()
    answer(loop, PROMPT, limit=1, temperature=0)
    assert sum(read) == 20


def test_with_a_seed_only_what_was_read_in_whole_chunks_is_used_again(model: Any) -> None:
    loop = TokenLoop(model, set(), 8)
    said = answer(loop, PROMPT, temperature=0)
    assert loop.kept is not None and loop.kept.exact == 48
    answer(loop, [*PROMPT, *said, 5], limit=1, temperature=0)
    assert loop.kept.exact == 48  # the rest was read token by token, and from there on
    answer(loop, [*PROMPT, *said, 5], limit=1, seed=1)
    assert loop.kept.exact == 56 and len(loop.kept.ids) == 63


def test_reading_again_gives_the_same_tokens_as_reading_anew(model: Any) -> None:
    loop = TokenLoop(model, set(), 8)
    for length in (50, 49, 20, 45, 3, 50, 50):
        fresh = answer(TokenLoop(model, set(), 8), PROMPT[:length], temperature=0)
        assert answer(loop, PROMPT[:length], temperature=0) == fresh


def test_a_failure_half_way_leaves_nothing_to_be_used_again(model: Any) -> None:
    loop = TokenLoop(model, set(), 8)
    answer(loop, PROMPT, temperature=0)
    forward, count = loop._forward, itertools.count()

    def failing(ids: list[int], kept: Any) -> Any:
        if next(count) == 2:
            raise RuntimeError("CUDA out of memory")
        return forward(ids, kept)

    loop._forward = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        answer(loop, [5] + PROMPT, temperature=0)
    assert loop.kept is None


def test_closing_it_while_it_reads_or_writes_ends_it_and_keeps_what_was_read(model: Any) -> None:
    loop = TokenLoop(model, set(), 8)
    found = loop.tokens(PROMPT, params(), 0, 100, lambda: False)
    assert next(found) == Progress(8, 50, "reading the prompt")
    found.close()  # type: ignore[attr-defined]
    assert loop.kept is not None and len(loop.kept.ids) == 8
    found = loop.tokens(PROMPT, params(), 0, 100, lambda: False)
    first = next(t for t in found if isinstance(t, int))
    found.close()  # type: ignore[attr-defined]
    assert loop.kept.ids == PROMPT and isinstance(first, int)


@pytest.mark.parametrize(("asked", "tokens"), [(2, 0), (8, 1), (11, 4)])
def test_stop_is_seen_between_two_chunks_and_between_two_tokens(
    model: Any, asked: int, tokens: int
) -> None:
    looks = itertools.count(1)
    found = TokenLoop(model, set(), 8).tokens(
        PROMPT, params(), 0, 100, lambda: next(looks) >= asked
    )
    assert len([t for t in found if isinstance(t, int)]) == tokens


# The sampler

SCORES = [3.0, 2.0, 1.0, 0.0, -1.0]


def drawn(prompt: tuple[int, ...] = (), times: int = 300, **given: Any) -> set[int]:
    sampler = Sampler("cpu", params(**given), 1, list(prompt))
    return {sampler.draw(torch.tensor(SCORES)) for _ in range(times)}


OPEN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "temperature": 2.0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.7}, {0, 1}),  # the shares are .64 .23 .09 .03 .01
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.1}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"temperature": 0}, {0}),
        ({"temperature": 0.01}, {0}),
    ],
)
def test_each_setting_leaves_the_tokens_it_says(given: dict[str, Any], expected: set[int]) -> None:
    assert drawn(**{**OPEN, **given}) == expected


def test_used_tokens_become_less_likely() -> None:
    greedy = {**OPEN, "temperature": 0}
    assert drawn((0,), 1, **greedy) == {0}
    assert drawn((0,), 1, **greedy, repetition_penalty=1.9) == {1}
    sampler = Sampler("cpu", params(**greedy, repetition_penalty=1.9), 1, [])
    assert [sampler.draw(torch.tensor(SCORES)) for _ in range(3)] == [0, 1, 0]


def test_penalties_grow_with_use_or_are_taken_once() -> None:
    greedy = {**OPEN, "temperature": 0}
    often = Sampler("cpu", params(**greedy, frequency_penalty=0.6), 1, [0])
    assert [often.draw(torch.tensor(SCORES)) for _ in range(4)] == [0, 1, 0, 1]
    once = Sampler("cpu", params(**greedy, presence_penalty=1.5), 1, [0, 0, 0, 0])
    assert [once.draw(torch.tensor(SCORES)) for _ in range(3)] == [1, 0, 0]


def test_a_bias_is_added_to_a_score() -> None:
    assert drawn(**{**OPEN, "temperature": 0}, times=1, logit_bias={"4": 4.5, "99": 1.0}) == {4}
    assert 0 not in drawn(**OPEN, logit_bias={"0": -100})


def shares(draws: Iterator[int], count: int) -> list[float]:
    tokens = list(itertools.islice(draws, count))
    return [tokens.count(i) / count for i in range(len(SCORES))]


def test_temperature_one_draws_by_probability() -> None:
    sampler = Sampler("cpu", params(**{**OPEN, "temperature": 1.0}), 7, [])
    draws = (sampler.draw(torch.tensor(SCORES)) for _ in itertools.count())
    expected = torch.tensor(SCORES).softmax(0).tolist()
    assert shares(draws, 3000) == pytest.approx(expected, abs=0.03)
