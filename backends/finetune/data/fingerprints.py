"""Duplicates and near-duplicates of any number of rows, in bounded memory.

A row costs 8 bytes (a hash of its content) and, in the first `MOST_NEAR` rows, 64 more: MinHash of
its shingles of 8 bytes (Broder 1997), grouped in bands (Leskovec et al., Mining of Massive
Datasets, ch. 3). What is compared is the text in lower case with single blanks, its first `READ`
bytes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from backends.finetune.data.forms import Example

SHINGLE = 8  # bytes
HASHES, BANDS = 16, 4  # pairs alike by 0.7 are met two times in three, by 0.9 nearly always
ALIKE = 13  # of the 16 that must agree: about 0.8 of the shingles of both
SHORT = 120  # bytes; what is shorter is alike too easily
READ = 8192  # bytes of a row that near-duplicates are told by
MOST_NEAR = 1_000_000  # rows that are looked at for near-duplicates
_RANDOM = np.random.default_rng(20260)
_ODD = (_RANDOM.integers(1, 2**62, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1))[:, None]
_FIRST = np.uint64(0x9E3779B97F4A7C15)

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Pairs(Mapping[int, int]):
    """Row -> the row that it is like, in 16 bytes each; in the order of the rows."""

    def __init__(self, rows: Numbers, firsts: Numbers) -> None:
        self.rows, self.firsts = rows, firsts

    @classmethod
    def of(cls, rows: Numbers, firsts: Numbers) -> Pairs:
        """In any order; where a row is there several times, with the first of its likes."""
        order = np.lexsort((firsts, rows))
        rows, firsts = rows[order], firsts[order]
        new = np.r_[True, rows[1:] != rows[:-1]] if len(rows) else np.zeros(0, dtype=bool)
        return cls(rows[new], firsts[new])

    @classmethod
    def none(cls) -> Pairs:
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def __getitem__(self, row: int) -> int:
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            raise KeyError(row)
        return int(self.firsts[at])

    def __iter__(self) -> Iterator[int]:
        return map(int, self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Fingerprints:
    """Those of many rows, in their order."""

    def __init__(self, near: bool = True) -> None:
        self.near = near
        self.numbers = array("q")  # of the rows
        self.hashes = array("Q")
        self.near_numbers = array("q")
        self.signatures = array("I")  # `HASHES` a row

    def add(self, number: int, example: Example) -> None:
        """Raises UnicodeEncodeError where the row has half a character in it."""
        said = "\x1f".join(_content(example))
        raw = said.encode()
        self.numbers.append(number)
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        self.hashes.append(int.from_bytes(digest, "little"))
        if not self.near or len(self.near_numbers) >= MOST_NEAR:
            return
        plain = " ".join(said[:READ].lower().split()).encode()[:READ]
        if len(plain) >= SHORT:
            self.near_numbers.append(number)
            self.signatures.frombytes(_signature(plain).tobytes())

    @property
    def all_near(self) -> bool:
        """Whether all rows were looked at for near-duplicates."""
        return len(self.near_numbers) < MOST_NEAR

    def duplicates(self) -> Pairs:
        """Row -> the first row with the same content."""
        keys, order = _grouped(_hashes(self.hashes))
        leader = order[_starts(keys)]
        again = order != leader
        rows = _numbers(self.numbers)
        return Pairs.of(rows[order[again]], rows[leader[again]])

    def near_duplicates(self) -> Pairs:
        """Row -> an earlier row that is nearly the same; rows that are exactly so are left out."""
        marks, numbers = self._marks(), _numbers(self.near_numbers)
        rows, firsts = [], []
        for band in range(BANDS):
            keys, order = _grouped(_band(marks, band))
            leader = order[_starts(keys)]
            near = ((marks[order] == marks[leader]).sum(axis=1) >= ALIKE) & (order != leader)
            rows.append(numbers[order[near]])
            firsts.append(numbers[leader[near]])
        found = Pairs.of(np.concatenate(rows), np.concatenate(firsts))
        other = ~np.isin(found.rows, self.duplicates().rows)
        return Pairs(found.rows[other], found.firsts[other])

    def shared(self, other: Fingerprints) -> Pairs:
        """Row of this one -> a row of the other that is the same, or nearly."""
        at, of = _met(_hashes(self.hashes), _hashes(other.hashes))
        rows, firsts = [_numbers(self.numbers)[at]], [_numbers(other.numbers)[of]]
        ours, theirs = self._marks(), other._marks()
        for band in range(BANDS):
            at, of = _met(_band(ours, band), _band(theirs, band))
            near = (ours[at] == theirs[of]).sum(axis=1) >= ALIKE
            rows.append(_numbers(self.near_numbers)[at[near]])
            firsts.append(_numbers(other.near_numbers)[of[near]])
        return Pairs.of(np.concatenate(rows), np.concatenate(firsts))

    def _marks(self) -> np.ndarray[Any, np.dtype[np.uint32]]:
        return np.frombuffer(self.signatures, dtype=np.uint32).reshape(-1, HASHES)


def _content(example: Example) -> list[str]:
    """All that tells two rows apart: who says what, calls of functions, the label."""
    if example.form == "text":
        return [example.text]
    parts = [f"{m['role'][0]}{m['content']}{m.get('tool_calls', '')}" for m in example.every()]
    return [*parts, str(example.label)] if example.form == "label" else parts


def _signature(plain: bytes) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The least of each of `HASHES` permutations over all shingles."""
    shingles = np.ndarray((len(plain) - SHINGLE + 1,), dtype="<u8", buffer=plain, strides=(1,))
    mixed = shingles * _FIRST
    mixed ^= mixed >> np.uint64(32)
    values = (mixed[None, :] * _ODD) >> np.uint64(32)
    least: np.ndarray[Any, np.dtype[np.uint32]] = values.min(axis=1).astype(np.uint32)
    return least


def _band(
    marks: np.ndarray[Any, np.dtype[np.uint32]], band: int
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """One number for the hashes of a band."""
    width = HASHES // BANDS
    key = np.zeros(len(marks), dtype=np.uint64)
    for column in range(band * width, (band + 1) * width):
        key = (key ^ marks[:, column].astype(np.uint64)) * _FIRST
        key ^= key >> np.uint64(29)
    return key


def _numbers(numbers: array[int]) -> Numbers:
    return np.frombuffer(numbers, dtype=np.int64)


def _hashes(hashes: array[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.frombuffer(hashes, dtype=np.uint64)


def _grouped(
    keys: np.ndarray[Any, np.dtype[np.uint64]],
) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], Numbers]:
    """Keys sorted, and where they stood; equal ones in their old order."""
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def _starts(keys: np.ndarray[Any, np.dtype[np.uint64]]) -> Numbers:
    """For each of some sorted keys, where the first that equals it stands."""
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return np.repeat(starts, np.diff(np.r_[starts, len(keys)]))


def _met(
    ours: np.ndarray[Any, np.dtype[np.uint64]], theirs: np.ndarray[Any, np.dtype[np.uint64]]
) -> tuple[Numbers, Numbers]:
    """Places of keys of ours that theirs have too, and the first place that has it there."""
    none = np.zeros(0, dtype=np.int64)
    if not len(ours) or not len(theirs):
        return none, none
    keys, places = np.unique(theirs, return_index=True)
    at = np.minimum(np.searchsorted(keys, ours), len(keys) - 1)
    met = np.flatnonzero(keys[at] == ours)
    return met, places[at[met]]
