"""Passphrases are long enough, readable, and compared as people type them."""

from __future__ import annotations

import inspect

import pytest

from webui.demo import passphrase
from webui.demo.passphrase import WORDS, check_passphrase, make_passphrase, same


def test_a_made_one_has_forty_bits_of_plain_words() -> None:
    words = WORDS.read_text("utf-8").split()
    assert len(set(words)) == len(words) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    made = {make_passphrase() for _ in range(50)}
    assert len(made) == 50 and all(len(phrase.split("-")) == 5 for phrase in made)


@pytest.mark.parametrize(
    ("offered", "fits"),
    [
        ("river-candle-lemon", True),
        (" River Candle  LEMON\n", True),
        ("rivercandlelemon", True),
        ("river-candle-lemo", False),
        ("", False),
        ("\ud800", False),
        ("rivér-candle-lemon", False),
    ],
)
def test_capitals_blanks_and_hyphens_do_not_matter(offered: str, fits: bool) -> None:
    assert same(offered, "river-candle-lemon") is fits


def test_the_comparison_takes_the_same_time() -> None:
    assert "compare_digest" in inspect.getsource(passphrase.same)


def test_an_own_one_must_be_long_and_none_is_made() -> None:
    assert check_passphrase("  Grüße aus Köln ") == "Grüße aus Köln"
    assert len(check_passphrase(" ").split("-")) == 5
    for short in ("abc", "- - - - - - - -", "x" * 201):
        with pytest.raises(ValueError, match="must have 8 to 200"):
            check_passphrase(short)
