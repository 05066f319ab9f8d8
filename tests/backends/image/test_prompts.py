"""Weights of words, and prompts that are longer than an encoder reads."""

from __future__ import annotations

import numpy
import pytest
import torch

from backends.image import encoding
from backends.image.encoding import Words, encode
from backends.image.families import find
from backends.image.prompts import has_weights, pieces, plain
from tests.backends.image.test_text_to_image import bare


# What AUTOMATIC1111's own `parse_prompt_attention` gives, from its documentation.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("normal text", [("normal text", 1.0)]),
     ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
     ("(unbalanced", [("unbalanced", 1.1)]),
     (r"\(literal\]", [("(literal]", 1.0)]),
     ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
     ("((word))", [("word", 1.21)]), ("[word]", [("word", 0.909091)]),
     ("(word:1.3), b", [("word", 1.3), (", b", 1.0)]), ("(a:.5)", [("a", 0.5)]),
     ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
      [("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55),
       (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)]),
     ("no ) bracket ] at 10:30", [("no ) bracket ] at 10:30", 1.0)]), ("", [])],
)  # fmt: skip
def test_the_marks_mean_what_they_mean_elsewhere(prompt, expected) -> None:
    assert pieces(prompt) == expected


def test_the_text_without_marks() -> None:
    assert plain("a ((big:1.2) [cat]) \\(x\\)") == "a big cat (x)"
    assert has_weights("a (cat)") and not has_weights("a \\(cat\\) at 10:30")


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_weight_changes_the_picture_and_a_weight_of_one_does_not(name, loaded, draw) -> None:
    model = loaded(name)
    flat, heavy, light, one = (
        draw(model, prompt=f"a {cat} and a dog").pixels[0]
        for cat in ("cat", "(cat:1.5)", "[cat]", "(cat:1.0)")
    )
    assert not numpy.array_equal(flat, heavy) and not numpy.array_equal(flat, light)
    assert not numpy.array_equal(heavy, light)
    assert numpy.abs(flat.astype(int) - one).max() <= 1


def test_a_weight_moves_its_words_away_from_nothing_by_so_much(loaded) -> None:
    """compel's rule: the numbers of a weighted word go on from those of an empty prompt."""
    pipe = loaded("stable_diffusion").model.pipe

    def numbers(text):
        return encode(pipe, find("sd"), Words(text), "cpu").arguments["prompt_embeds"]

    nothing, word, heavy = numbers(""), numbers("x"), numbers("(x:1.5)")
    expected = nothing[0, 1] + 1.5 * (word[0, 1] - nothing[0, 1])
    assert torch.allclose(heavy[0, 1], expected, atol=1e-5)
    assert torch.allclose(heavy[0, 2:], word[0, 2:], atol=1e-5)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_the_end_of_a_long_prompt_counts(name, loaded, draw) -> None:
    model = loaded(name)
    long = "a house by the lake, " * 8  # a token for each letter: twice what the encoder reads
    first, second = (draw(model, prompt=long + end) for end in ("red", "blue"))
    assert not numpy.array_equal(first.pixels[0], second.pixels[0])
    assert first.notices == ""


def test_prompts_of_unlike_length_are_brought_to_one(loaded) -> None:
    found = encode(
        loaded("stable_diffusion").model.pipe, find("sd"), Words("long " * 60, "short"), "cpu"
    ).arguments
    assert found["prompt_embeds"].shape == found["negative_prompt_embeds"].shape
    assert found["prompt_embeds"].shape[1] % 77 == 0 and found["prompt_embeds"].shape[1] > 77


def test_layers_left_out_are_those_of_the_encoder(loaded, draw) -> None:
    pipe = loaded("stable_diffusion").model.pipe
    ids = pipe.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        states = pipe.text_encoder(ids.input_ids, output_hidden_states=True).hidden_states
        wanted = pipe.text_encoder.final_layer_norm(states[-3])
    found = encode(pipe, find("sd"), Words("a cat", clip_skip=2), "cpu").arguments
    assert torch.allclose(found["prompt_embeds"], wanted, atol=1e-5)
    plain_one, skipped = (
        draw(loaded("stable_diffusion")),
        draw(loaded("stable_diffusion"), clip_skip=2),
    )
    assert not numpy.array_equal(plain_one.pixels[0], skipped.pixels[0])


def test_escaped_brackets_are_drawn_as_text(made, loaded, draw) -> None:
    drawn = draw(loaded("stable_diffusion"), prompt=r"a \(cat\)")
    expected = bare(made("stable_diffusion"), prompt="a (cat)")
    assert numpy.abs(drawn.pixels[0].astype(int) - expected).max() <= 1


def test_every_way_of_the_families_is_there() -> None:
    from backends.image.families import FAMILIES

    assert {row.words for row in FAMILIES} <= set(encoding.WAYS)
