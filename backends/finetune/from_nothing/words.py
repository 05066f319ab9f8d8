"""A CLIP tokenizer that is learned from the captions: byte-level BPE, whole bytes always known."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
Pair = tuple[str, str]
# As CLIP cuts a text before it looks for pairs.
PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def learn(captions: Sequence[str], vocabulary: int) -> tuple[dict[str, int], list[Pair]]:
    """The vocabulary and the merges, in CLIP's order: bytes, bytes that end a word, merged pairs,
    start, end. `vocabulary`: tokens at most, 514 at least.

    Of pairs that are equally frequent the first by its letters is merged: the trainer of the
    library takes any of them, and two trainings of one seed would differ.
    """
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = merged(counted(captions), vocabulary - 2 * len(letters) - 2)
    words = letters + [letter + WORD_END for letter in letters]
    words += [first + second for first, second in merges] + [START, END]
    return {word: number for number, word in enumerate(dict.fromkeys(words))}, merges


def counted(captions: Sequence[str]) -> Counter[str]:
    """How often each word is in the captions, its bytes as letters."""
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    lower = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
         normalizers.Lowercase()]
    )  # fmt: skip
    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    found: Counter[str] = Counter()
    for text in captions:
        found.update(word for word, _ in cut.pre_tokenize_str(lower.normalize_str(text)))
    return found


def merged(words: Counter[str], most: int) -> list[Pair]:
    """The pairs to merge, the most frequent first."""
    spelled = [([*word[:-1], word[-1] + WORD_END], count) for word, count in sorted(words.items())]
    counts: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = {}
    for number, (pieces, count) in enumerate(spelled):
        _add(counts, where, number, pieces, count)
    merges: list[Pair] = []
    while len(merges) < most and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for number in sorted(where[best]):
            pieces, count = spelled[number]
            _add(counts, where, number, pieces, -count)
            pieces[:] = joined(pieces, best)
            _add(counts, where, number, pieces, count)
    return merges


def _add(
    counts: Counter[Pair], where: dict[Pair, set[int]], number: int, pieces: list[str], count: int
) -> None:
    for pair in zip(pieces, pieces[1:], strict=False):
        counts[pair] += count
        if counts[pair] <= 0:
            del counts[pair]
        if count > 0:
            where.setdefault(pair, set()).add(number)
        else:
            where[pair].discard(number)


def joined(pieces: list[str], pair: Pair) -> list[str]:
    """The pieces of a word with that pair as one, from the left."""
    made: list[str] = []
    for piece in pieces:
        if made and (made[-1], piece) == pair and not made[-1].endswith(WORD_END):
            made[-1] += piece
        else:
            made.append(piece)
    return made


def files(captions: Sequence[str], vocabulary: int) -> dict[str, str]:
    """vocab.json and merges.txt of these captions, as `CLIPTokenizer.from_pretrained` reads them:
    the text of each file by its name."""
    numbers, merges = learn(captions, vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return {"vocab.json": json.dumps(numbers, ensure_ascii=False),
            "merges.txt": "\n".join(lines) + "\n"}  # fmt: skip


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """What `files` gave, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8", newline="\n")


def opened(texts: Mapping[str, str], length: int) -> Any:
    """The CLIPTokenizer of those files; captions are cut after `length` tokens, start and end
    included."""
    import transformers

    with tempfile.TemporaryDirectory(prefix="werkbank-") as folder:
        write(Path(folder), texts)
        return transformers.CLIPTokenizer.from_pretrained(
            folder, model_max_length=length, local_files_only=True
        )


def numbers_of(tokenizer: Any, texts: Sequence[str]) -> Any:
    """int64 [texts, length], padded as StableDiffusionPipeline pads."""
    return tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length,
        truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
