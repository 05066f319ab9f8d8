"""Whatever the bytes: two sentences, or rows of which each is kept or reported. Nothing else."""

from __future__ import annotations

import csv
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from backends.base import Refused
from backends.finetune.data import DropDuplicates, Mapping, ReadOptions, Take, Trim, open_dataset

MAPPING = Mapping("instruction", prompt="instruction", answer="output")
LETTERS = 'abc äöß 你好 "\\\n\r\t,;{}[]:\0\ufeff\ud83d😀'
ENDINGS = ("json", "jsonl", "csv", "tsv", "txt", "md", "zip", "parquet", "odd", "")


def hold(path: Path, data: bytes) -> int | None:
    """What must hold for any file. Gives the number of rows, None where it is refused."""
    path.write_bytes(data)
    try:
        dataset = open_dataset(path)
        if dataset.mapping.missing():
            dataset = dataset.map(MAPPING)
        report = dataset.examine()
        kept = len(list(dataset.examples()))
        assert report.complete
        assert report.rows == report.kept + report.left_out == len(list(dataset.rows()))
        assert report.kept == kept
        errors = sum(f.count for f in report.errors())
        assert report.left_out <= errors
        assert json.dumps(report.as_dict())
        fixed = dataset.fix(Trim(), DropDuplicates(near=True), Take(5))
        out = path.with_name("out.jsonl")
        if kept:
            written = fixed.write(out)
            assert written is not None
            assert written.rows == written.written + sum(written.left_out.values()) == report.rows
            lines = out.read_bytes().splitlines()
            assert len(lines) == written.written == len(list(open_dataset(out).rows()))
            out.unlink()
            out.with_name("out.jsonl.manifest.json").unlink()
        return report.rows
    except Refused as refused:
        assert refused.message.endswith(".") and refused.hint.endswith(".")
        return None
    finally:
        assert path.read_bytes() == data


def word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(12)))


def value(rng: random.Random, depth: int = 0) -> Any:
    pick = rng.randrange(9 if depth < 3 else 5)
    if pick < 3:
        return word(rng)
    if pick < 5:
        return rng.choice([None, True, 0, -1.5, 10**30, float("nan")])
    if pick == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if pick == 6:
        return {word(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    role = rng.choice(["role", "from"])
    return [{role: rng.choice(["user", "gpt", "tool", "x"]), "content": value(rng, depth + 1)}]


def row(rng: random.Random) -> dict[str, Any]:
    names = ["instruction", "output", "messages", "text", "chosen", "rejected", "label", "tools"]
    names = rng.sample(names, rng.randrange(1, 5))
    return {name: value(rng) for name in names}


def as_bytes(rng: random.Random, kind: str, rows: list[dict[str, Any]]) -> bytes:
    if kind == "csv":
        out = io.StringIO()
        writer = csv.writer(out, delimiter=rng.choice(",;\t"))
        writer.writerow(["instruction", "output"])
        writer.writerows([word(rng), word(rng)] for _ in rows)
        text = out.getvalue()
    elif kind == "json":
        text = json.dumps(rows, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
    else:
        text = "".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) + "\n" for r in rows)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252", "gb18030"])
    return text.encode(encoding, "replace")


def spoiled(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        data = rng.choice([
            data[:at], data[:at] + rng.randbytes(3) + data[at:], data[:at] + data[at + 5 :],
            data[:at] + data[at // 2 :], data[:at] + rng.choice([b'"', b"{", b"}", b"[", b"\n"])
            + data[at:],
        ])  # fmt: skip
    return data


@pytest.mark.parametrize("seed", range(20))
def test_spoiled_files_of_each_kind(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    read = 0
    for _ in range(20):
        kind = rng.choice(["csv", "json", "jsonl"])
        data = spoiled(rng, as_bytes(rng, kind, [row(rng) for _ in range(rng.randrange(1, 30))]))
        if rng.random() < 0.15:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"a.{kind}", data)
            data, kind = spoiled(rng, packed.getvalue()), "zip"
        read += hold(tmp_path / f"a.{kind}", data) is not None
    assert read


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_sound_rows_are_all_there_whatever_stands_in_them(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    for number in range(30):
        rows = [
            {"instruction": word(rng) + "q", "output": word(rng) + "a"}
            for _ in range(rng.randrange(2, 20))
        ]
        rows = [{k: v.replace("\ud83d", "").replace("\0", "") for k, v in r.items()} for r in rows]
        path = tmp_path / f"{number}.{kind}"
        if kind == "csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["instruction", "output"], quoting=csv.QUOTE_ALL)
                writer.writeheader()
                writer.writerows(rows)
            options = ReadOptions(separator=",", header="names")
        elif kind == "json":
            path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
            options = ReadOptions()
        else:
            text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
            path.write_text(text, "utf-8")
            options = ReadOptions()
        found = [r.value for r in open_dataset(path, options=options).rows()]
        if kind == "csv":  # a line end inside a cell comes as one kind
            rows = [{k: _ends(v) for k, v in r.items()} for r in rows]
            found = [{k: _ends(v) for k, v in (r or {}).items()} for r in found]
        assert found == rows


def _ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "")


def test_any_bytes(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    pieces = st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b"\n", b"\\", b":", b"\xff",
                              b"\0",
                              b'{"text": "a"}', b'{"instruction": "a", "output": "b"}\n', b"PAR1",
                              b"PK\x03\x04", b"a,b\n", b"\xef\xbb\xbf", b"\xff\xfe"])  # fmt: skip
    anything = st.one_of(
        st.binary(max_size=300),
        st.lists(st.one_of(pieces, st.binary(max_size=4)), max_size=40).map(b"".join),
    )

    @hypothesis.settings(max_examples=400, deadline=None, database=None)
    @hypothesis.given(anything, st.sampled_from(ENDINGS))
    def check(data: bytes, ending: str) -> None:
        hold(tmp_path / f"a.{ending}", data)

    check()


def test_spoiled_parquet(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rng = random.Random(6)
    rows = [
        {"instruction": word(rng).replace("\ud83d", "") + "a", "output": "b"} for _ in range(50)
    ]
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), out, row_group_size=20)
    assert hold(tmp_path / "a.parquet", out.getvalue()) == 50
    for _ in range(150):
        hold(tmp_path / "a.parquet", spoiled(rng, out.getvalue()))
