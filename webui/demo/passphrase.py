"""A passphrase that can be read out and typed, and its comparison."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

WORDS = Path(__file__).resolve().parents[2] / "assets" / "words.txt"
COUNT = 5  # of 256 words: 40 bits; a day of the ten tries a second that the door allows is 20
SHORTEST = 8  # characters of one that the owner chose


def make_passphrase() -> str:
    """Five words with hyphens, such as "river-candle-tiger-lemon-boat"."""
    words = WORDS.read_text("utf-8").split()
    return "-".join(secrets.choice(words) for _ in range(COUNT))


def check_passphrase(text: str) -> str:
    """What the owner typed, cleaned. Raises ValueError where it is too easy to guess."""
    text = text.strip()
    if not text:
        return make_passphrase()
    if len(plain(text)) < SHORTEST or len(text) > 200:
        raise ValueError(
            f"The passphrase must have {SHORTEST} to 200 letters or digits. "
            "Take a longer one, or leave the field empty for a made one."
        )
    return text


def same(offered: str, right: str) -> bool:
    """In constant time; capitals, blanks and hyphens do not matter, since people type it."""
    return hmac.compare_digest(_digest(offered), _digest(right))


def plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _digest(text: str) -> bytes:
    return hashlib.sha256(plain(text).encode("utf-8", "replace")).digest()
