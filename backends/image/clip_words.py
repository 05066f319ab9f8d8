"""The words of CLIP's tokenizer, made from the list of its merges (OpenAI, MIT licence): a single
file of Stable Diffusion holds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIRST, LAST = "<|startoftext|>", "<|endoftext|>"
MERGES = "merges.txt"
LENGTH = 77


def letters() -> list[str]:
    """A letter that can be shown for each byte, in the order of CLIP's table: those that are
    letters already, then the others moved up."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + n) for n in range(len(others))]


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Each word with its number: bytes, bytes that end a word, what merges make, and two marks."""
    single = letters()
    words = [*single, *(letter + "</w>" for letter in single), *("".join(two) for two in merges)]
    return {word: number for number, word in enumerate([*words, FIRST, LAST])}


def clip_tokenizer(folder: Path) -> Any:
    """The tokenizer of `folder`, which may say how it pads; the merges lie beside its model."""
    from transformers import CLIPTokenizer

    file = folder.parents[1] / MERGES
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    merges = [(one, two) for one, _, two in (line.partition(" ") for line in lines if line)]
    own = folder / "tokenizer_config.json"
    said = json.loads(own.read_text("utf-8")) if own.is_file() else {}
    return CLIPTokenizer(
        vocab=vocabulary(merges), merges=merges, model_max_length=LENGTH,
        pad_token=said.get("pad_token", LAST),
    )  # fmt: skip
