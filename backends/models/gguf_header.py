"""A GGUF file's header, read with bounds: nothing it says is believed before it fits the file.

Native code reads these files too, and a tensor that claims to lie beyond the end of its file has
been a hole more than once. So the header is read here first. Format: ggml's docs/gguf.md,
versions 2 and 3, little endian.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Refused

MAX_HEADER_BYTES = 256 * 2**20  # the largest vocabularies in use take about 20 MB
MAX_PAIRS = 10_000  # a real file has less than a hundred
MAX_TENSORS = 200_000
MAX_NAME_BYTES = 4096
AGAIN = "Download it again, or use another model."

# ggml's tensor types: weights in a block, and bytes that a block takes.
BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
# GGUF's value types that have a fixed size; 8 is a string and 9 an array.
SCALARS = {
    i: struct.Struct("<" + letter)
    for i, letter in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?",
                      10: "Q", 11: "q", 12: "d"}.items()
}  # fmt: skip
STRING, ARRAY = 8, 9
CONTROL = 3  # a kind of token (llama.cpp: LLAMA_TOKEN_TYPE_CONTROL)
U32, U64 = SCALARS[4], SCALARS[10]


@dataclass(frozen=True)
class Array:
    """A list in the header. Its values are left where they are: vocabularies are long."""

    type: int
    count: int
    start: int  # byte of the first value


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int  # from the start of the data
    bytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, checked against its size."""

    version: int
    values: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int
    head: bytes

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """The value named `<architecture>.<key>`."""
        return self.values.get(f"{self.architecture}.{key}", default)

    @property
    def parameters(self) -> int:
        total = 0
        for tensor in self.tensors:
            total += _product(tensor.shape)
        return total

    def tokens(self) -> Iterator[bytes]:
        """The text of each token, in order; nothing where the file has no list of them."""
        tokens = self.values.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Array) or tokens.type != STRING:
            return
        at = tokens.start
        for _ in range(tokens.count):
            length = U64.unpack_from(self.head, at)[0]
            yield self.head[at + 8 : at + 8 + length]
            at += 8 + length

    def numbers(self, array: Array) -> list[Any]:
        """The values of a list of numbers; none of any other."""
        kind = SCALARS.get(array.type)
        if kind is None:
            return []
        size = array.count * kind.size
        return [n for (n,) in kind.iter_unpack(self.head[array.start : array.start + size])]

    def token(self, which: str) -> str:
        """The text of a named token, `bos` or `eos`; "" where the file names none."""
        index = self.values.get(f"tokenizer.ggml.{which}_token_id")
        if not isinstance(index, int) or index < 0:
            return ""
        return next(itertools.islice(self.tokens(), index, None), b"").decode("utf-8", "replace")

    def control_tokens(self) -> list[str]:
        """The texts of all tokens that are marked as control, such as the end of a turn."""
        types = self.values.get("tokenizer.ggml.token_type")
        if not isinstance(types, Array) or types.type not in (4, 5):  # uint32 or int32
            return []
        kinds = struct.unpack_from(f"<{types.count}i", self.head, types.start)
        pairs = zip(self.tokens(), kinds, strict=False)
        return [text.decode("utf-8", "replace") for text, kind in pairs if kind == CONTROL]

    def token_ids(self, texts: set[str]) -> dict[str, int]:
        """The numbers of the tokens that have these texts; without those that are no token."""
        wanted = {text.encode(): text for text in texts}
        found = (pair for pair in enumerate(self.tokens()) if pair[1] in wanted)
        return {wanted[text]: number for number, text in found}


class _Short(Exception):
    """The bytes at hand end before the header does."""


def read_header(path: Path) -> Header:
    """The header of the GGUF file at `path`. Raises Refused for one that does not add up."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head, want = b"", min(size, 4 * 2**20)
        while True:
            head += file.read(want - len(head))
            try:
                return _Reader(path.name, head, size).header()
            except (_Short, struct.error):
                if want >= size:
                    raise Refused(
                        f"The file {path.name} is incomplete: it ends at byte {size:,}, inside "
                        "its own header.",
                        AGAIN,
                    ) from None
                if want >= MAX_HEADER_BYTES:
                    raise Refused(
                        f"The header of {path.name} is longer than {MAX_HEADER_BYTES:,} bytes.",
                        AGAIN,
                    ) from None
                want = min(size, want * 8, MAX_HEADER_BYTES)


class _Reader:
    """One pass over the header's bytes. Running out of them is struct.error or _Short."""

    def __init__(self, name: str, head: bytes, size: int) -> None:
        self.name, self.head, self.size, self.at = name, head, size, 0

    def bad(self, what: str) -> Refused:
        return Refused(f"The file {self.name} is damaged: {what}.", AGAIN)

    def header(self) -> Header:
        magic, version = self.head[:4], U32.unpack_from(self.head, 4)[0]
        if magic != b"GGUF":
            raise Refused(f"The file {self.name} is not a GGUF file.", AGAIN)
        if version in (0x02000000, 0x03000000):
            raise Refused(f"The file {self.name} is written for big-endian machines.", AGAIN)
        if version not in (2, 3):
            raise Refused(
                f"The file {self.name} has GGUF version {version}, and 2 and 3 can be read.", AGAIN
            )
        tensor_count, pair_count = struct.unpack_from("<QQ", self.head, 8)
        if tensor_count > MAX_TENSORS or tensor_count * 32 > self.size:
            raise self.bad(f"it claims to hold {tensor_count:,} tensors")
        if pair_count > MAX_PAIRS or pair_count * 13 > self.size:
            raise self.bad(f"it claims to hold {pair_count:,} settings")
        self.at = 24
        values = {self.string(MAX_NAME_BYTES): self.value() for _ in range(pair_count)}
        tensors = tuple(self.tensor() for _ in range(tensor_count))
        start = self.aligned(values)
        self.check_tensors(tensors, start, values)
        return Header(version, values, tensors, start, self.head[: self.at])

    def number(self, kind: struct.Struct) -> Any:
        (value,) = kind.unpack_from(self.head, self.at)
        self.at += kind.size
        return value

    def string(self, longest: int = MAX_HEADER_BYTES) -> str:
        length = self.number(U64)
        if length > longest or length > self.size:
            raise self.bad(f"a text in its header claims to be {length:,} bytes long")
        return self.take(length).decode("utf-8", "replace")

    def take(self, length: int) -> bytes:
        piece = self.head[self.at : self.at + length]
        if len(piece) < length:
            raise _Short
        self.at += length
        return piece

    def value(self) -> Any:
        kind = self.number(U32)
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        raise self.bad(f"a setting has the unknown type {kind}")

    def array(self) -> Array:
        kind, count = self.number(U32), self.number(U64)
        smallest = SCALARS[kind].size if kind in SCALARS else 8
        if kind not in SCALARS and kind != STRING:
            raise self.bad(f"a list in its header has the unknown type {kind}")
        if count * smallest > self.size:
            raise self.bad(f"a list in its header claims to have {count:,} entries")
        start = at = self.at
        if kind == STRING:
            at = self.after_strings(count)
        else:
            at += count * smallest
        if at > self.size:
            raise self.bad("a list in its header ends beyond the end of the file")
        if at > len(self.head):
            raise _Short
        self.at = at
        return Array(kind, count, start)

    def after_strings(self, count: int) -> int:
        """Where so many strings end. Half a million for large vocabularies: the loop is bare."""
        head, unpack, at = self.head, U64.unpack_from, self.at
        try:
            for _ in range(count):
                at += 8 + unpack(head, at)[0]
        except (struct.error, OverflowError):
            if at > self.size:
                raise self.bad("a text in its header ends beyond the end of the file") from None
            raise _Short from None
        return at

    def tensor(self) -> Tensor:
        name, dims = self.string(MAX_NAME_BYTES), self.number(U32)
        if not 0 < dims <= 4:
            raise self.bad(f"the tensor {name[:60]!r} has {dims} dimensions")
        shape = tuple(self.number(U64) for _ in range(dims))
        kind, offset = self.number(U32), self.number(U64)
        if kind not in BLOCKS:
            raise Refused(
                f"The file {self.name} uses the tensor type {kind}, which is not known here.",
                "Use a file in another quantisation, such as Q4_K_M or Q8_0.",
            )
        weights, size = BLOCKS[kind]
        total = _product(shape)
        if not 0 < total < 2**60 or shape[0] % weights:
            raise self.bad(f"the tensor {name[:60]!r} has the impossible shape {shape}")
        return Tensor(name, shape, kind, offset, total // weights * size)

    def aligned(self, values: dict[str, Any]) -> int:
        """The byte where the tensors' data begins."""
        step = values.get("general.alignment", 32)
        if not isinstance(step, int) or not 1 <= step <= 65536 or step & (step - 1):
            raise self.bad(f"its alignment is {str(step)[:20]}")
        return (self.at + step - 1) // step * step

    def check_tensors(
        self, tensors: tuple[Tensor, ...], start: int, values: dict[str, Any]
    ) -> None:
        step = values.get("general.alignment", 32)
        end, seen = 0, set()
        for tensor in sorted(tensors, key=lambda t: t.offset):
            if tensor.name in seen:
                raise self.bad(f"it holds the tensor {tensor.name[:60]!r} twice")
            if tensor.offset % step or tensor.offset < end:
                raise self.bad(f"the tensor {tensor.name[:60]!r} lies over another one")
            seen.add(tensor.name)
            end = tensor.offset + tensor.bytes
        if start + end > self.size:
            raise Refused(
                f"The file {self.name} is incomplete ({self.size:,} of {start + end:,} bytes).",
                "Download it again.",
            )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
