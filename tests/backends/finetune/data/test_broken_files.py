"""Files as people have them: each gives rows, or rows that are reported, or two sentences."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from pathlib import Path

import pytest

from backends.base import Refused
from backends.finetune.data import ReadOptions, open_dataset
from backends.finetune.data.encoding import Encoding, lines
from backends.finetune.data.json_rows import json_document
from backends.finetune.data.rows import MAX_ROW

QA = {"instruction": "Who are you?", "output": "A helper."}
GERMAN = {"instruction": "Grüße, wie heißt du?", "output": "Ich heiße Jörg Müller, schöne Grüße."}
CHINESE = {
    "instruction": "你好,你叫什么名字?",
    "output": "我是一个可以帮助你的中文助手。很高兴认识你。",
}
RUSSIAN = {
    "instruction": "Привет, как тебя зовут и что ты умеешь делать?",
    "output": "Меня зовут помощник, я отвечаю на вопросы и помогаю людям каждый день.",
}


def line(row: object) -> str:
    return json.dumps(row, ensure_ascii=False)


def csv(rows: list[dict[str, str]], between: str = ",", end: str = "\n") -> str:
    lines = [between.join(rows[0])]
    lines += [between.join('"' + v.replace('"', '""') + '"' for v in row.values()) for row in rows]
    return end.join(lines) + end


TWO = f"{line(QA)}\n{line(GERMAN)}\n"
DEEP = "[" * 100_000 + "]" * 100_000
# name, bytes, rows, kinds of findings that leave rows out
FILES = [
    ("plain.jsonl", TWO.encode(), 2, {}),
    ("bom.jsonl", TWO.encode("utf-8-sig"), 2, {}),
    ("crlf.jsonl", TWO.replace("\n", "\r\n").encode(), 2, {}),
    ("mac.csv", csv([QA, GERMAN], end="\r").encode(), 2, {}),
    ("utf16.jsonl", TWO.encode("utf-16"), 2, {}),
    ("utf16le.jsonl", TWO.encode("utf-16-le"), 2, {}),
    ("utf16be.json", json.dumps([QA, GERMAN]).encode("utf-16-be"), 2, {}),
    ("utf32.jsonl", TWO.encode("utf-32"), 2, {}),
    ("cp1252.jsonl", TWO.encode("cp1252"), 2, {}),
    ("late_umlaut.jsonl", (line(QA) + "\n").encode() * 6000 + line(GERMAN).encode("cp1252"), 6001,
     {}),
    ("gbk.jsonl", f"{line(CHINESE)}\n{line(CHINESE)}\n".encode("gbk"), 2, {}),
    ("cyrillic.csv", csv([RUSSIAN] * 3).encode("cp1251"), 3, {}),
    ("one_wrong_byte.jsonl", (TWO * 4).encode() + b'{"instruction": "\xff", "output": "a"}\n', 9,
     {"encoding": 1}),
    ("semicolon.csv", csv([GERMAN, QA], ";").encode("cp1252"), 2, {}),
    ("tabs.tsv", csv([GERMAN, QA], "\t").encode(), 2, {}),
    ("ragged.csv", b"instruction,output\na,b\nc\nd,e,f\ng,h\n", 4, {"ragged": 2}),
    ("open_quote.csv", b'instruction,output\na,b\n"c,d\ne,f\n', 2, {"damaged": 1}),
    ("line_breaks.csv", b'instruction,output\n"a\nb","c\n\nd"\ne,f\n', 2, {}),
    ("nul.jsonl", (line(QA) + "\n").encode() * 50 + b"\0", 50, {}),
    ("one.json", line(QA).encode(), 1, {}),
    ("pretty.json", json.dumps([QA, GERMAN], indent=2).encode(), 2, {}),
    ("wrapped.json", json.dumps({"version": "1", "data": [QA, GERMAN]}).encode(), 2, {}),
    ("splits.json", json.dumps({"train": [QA], "test": [GERMAN]}).encode(), 2, {}),
    ("columns.json", json.dumps({"instruction": ["a", "b"], "output": ["c", "d"]}).encode(), 2, {}),
    ("behind.json", (json.dumps(QA, indent=1) * 3).encode(), 3, {}),
    ("nested.json", json.dumps([QA, {"instruction": {"a": {"b": 1}}, "output": "x"}]).encode(), 2,
     {"shape": 1}),
    ("deep.jsonl", f"{line(QA)}\n{DEEP}\n{line(QA)}\n".encode(), 3, {"damaged": 1}),
    ("deep.json", f"[{line(QA)},\n{DEEP},\n{line(QA)}]".encode(), 3, {"damaged": 1}),
    ("torn.json", json.dumps([QA, GERMAN], indent=2)[:-40].encode(), 3, {"damaged": 2}),
    ("torn.jsonl", TWO[:-20].encode(), 2, {"damaged": 1}),
    ("missing_brace.json", json.dumps([QA, QA, GERMAN], indent=2).replace('.",\n', ".\n", 1)
     .replace("},", ",", 1).encode(), 3, {"damaged": 1}),
    ("comma.json", b'[{"instruction": "a", "output": "b",}, {"instruction": "c", "output": "d"}]',
     2, {"damaged": 1}),
    ("wrong_keys.jsonl", (TWO + '{"foo": 1}\n').encode(), 3, {"columns": 1}),
    ("not_rows.json", json.dumps([QA, 3, None, [], "text", QA, QA]).encode(), 7,
     {"damaged": 3, "columns": 1}),
    ("half_character.jsonl", (TWO + '{"instruction": "a", "output": "\\ud83d"}\n').encode(), 3,
     {"characters": 1}),
    ("digits.jsonl", f'{TWO}{{"instruction": {"9" * 5000}, "output": "x"}}\n'.encode(), 3,
     {"damaged": 1}),
    ("nan.jsonl", (TWO + '{"instruction": "x", "output": NaN}\n').encode(), 3, {"no_answer": 1}),
    ("long_row.jsonl", (TWO + line({"instruction": "a", "output": "word " * 200_000}) + "\n")
     .encode(), 3, {}),
    ("huge_row.jsonl", f'{TWO}{{"instruction": "{"a" * MAX_ROW}"}}\n{TWO}'.encode(), 5,
     {"too_long": 1}),
    ("empty_answer.jsonl", (TWO + '{"instruction": "a", "output": ""}\n\n').encode(), 3,
     {"no_answer": 1}),
    ("blank_row.jsonl", (TWO + '{"instruction": " ", "output": ""}\n').encode(), 3, {"empty": 1}),
    ("chinese.json", json.dumps([CHINESE], ensure_ascii=False).encode(), 1, {}),
    ("german.md", "# Grüße\n\nEin Absatz.\n\n# Zwei\n\nNoch einer.\n".encode("cp1252"), 1, {}),
    ("plain.txt", ("Ein Satz über Bäume. " * 300 + "\n\n").encode() * 4, 4, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "rows", "left_out"), FILES, ids=[f[0] for f in FILES])
def test_each_row_is_kept_or_reported(
    tmp_path: Path, name: str, data: bytes, rows: int, left_out: dict[str, int]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    report = open_dataset(path).examine()
    assert {f.kind: f.count for f in report.errors()} == left_out
    assert report.rows == rows
    assert report.kept + report.left_out == rows
    assert path.read_bytes() == data


def test_a_broken_entry_does_not_take_its_neighbours_with_it(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows = [{"conversations": turns, "id": n} for n in range(20)]
    for indent in (None, 2):
        text = json.dumps(rows, indent=indent)
        for broken in (
            text.replace('"value": "b"', '"value": "b', 1),
            text.replace('"value": "a"', '"value": a"', 1),
            text.replace("}", "", 1),
            text.replace("]", "", 1),
        ):
            (tmp_path / "a.json").write_text(broken)
            report = open_dataset(tmp_path / "a.json").examine()
            assert (report.kept, report.left_out) == (19, 1), broken[:200]


@pytest.mark.parametrize(
    ("name", "encoding", "told"),
    [
        ("a.jsonl", "utf-8", "UTF-8"),
        ("a.jsonl", "utf-16", "UTF-16"),
        ("a.jsonl", "cp1252", "Windows-1252"),
        ("a.csv", "cp1252", "Windows-1252"),
    ],
)
def test_german_comes_out_right_in_every_encoding(
    tmp_path: Path, name: str, encoding: str, told: str
) -> None:
    text = csv([GERMAN]) if name.endswith("csv") else line(GERMAN) + "\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    dataset = open_dataset(tmp_path / name)
    assert dataset.preview(1)[0][0].value == GERMAN
    assert told in dataset.notes[0]
    assert ("guessed" in dataset.notes[0]) == (encoding == "cp1252")


def test_chinese_and_cyrillic_are_guessed_and_can_be_overruled(tmp_path: Path) -> None:
    for encoding, row, title in (("gbk", CHINESE, "GB 18030"), ("cp1251", RUSSIAN, "1251")):
        path = tmp_path / f"{encoding}.jsonl"
        path.write_bytes(f"{line(row)}\n{line(row)}\n".encode(encoding))
        dataset = open_dataset(path)
        assert dataset.preview(1)[0][0].value == row
        assert title in dataset.notes[0] and "guessed" in dataset.notes[0]
        wrong = dataset.read_as(ReadOptions(encoding="cp1252"))
        assert wrong.preview(1)[0][0].value != row
        assert wrong.undo().preview(1)[0][0].value == row


@pytest.mark.parametrize("text", ["你好,世界", "北京欢迎你", "机器学习很有趣。"])
def test_a_few_chinese_words_are_enough(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line({"text": text}).encode("gbk"))
    assert open_dataset(path).preview(1)[0][0].value == {"text": text}


@pytest.mark.parametrize("text", ["Müller", "Größe: 5 m²", "naïve café", "El Niño, ¿qué?"])
def test_a_few_western_letters_are_not_chinese(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line({"text": text}).encode("cp1252"))
    assert open_dataset(path).preview(1)[0][0].value == {"text": text}


def test_where_the_pieces_end_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [
        QA,
        GERMAN,
        {"instruction": '\\" \n{[', "output": [1234567, None, True]},
        "text",
        1234567,
    ]
    documents = [
        json.dumps(values), json.dumps(values, indent=2, ensure_ascii=False),
        json.dumps({"version": 1234567, "data": values, "more": [values[0]]}),
        json.dumps({"instruction": ["a", "b"], "output": ["c", "d"], "n": [1234567, 1.5e300]}),
        json.dumps(values)[:-30], " 1234567 ",
    ]  # fmt: skip
    for encoding in ("utf-8", "utf-16"):
        for document in documents:
            found = []
            for size in (1, 2, 3, 5, 17, 10**6):
                monkeypatch.setattr("backends.finetune.data.encoding.CHUNK", size)
                file = io.BytesIO(document.encode(encoding))
                found.append(list(json_document(file, Encoding(encoding))))
            assert all(rows == found[-1] for rows in found), document
    for size in (1, 2, 3, 5):
        monkeypatch.setattr("backends.finetune.data.encoding.CHUNK", size)
        file = io.BytesIO("a\r\nü\n\nb".encode("utf-16"))
        assert list(lines(file, Encoding("utf-16"))) == [
            (1, "a", ""), (2, "ü", ""), (3, "", ""), (4, "b", ""),
        ]  # fmt: skip


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'instruction,output\n"a\nb",c\nd\ne,f\n')
    report = open_dataset(path).examine()
    assert report.findings["ragged"].rows == [(2, "line 4", "It has 1 cell, not 2.")]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"instruction": "a", "output": "b"}\n\nbroken\n' + TWO.encode())
    ((number, place, sentence),) = open_dataset(path).examine().findings["damaged"].rows
    assert (number, place) == (2, "line 4") and sentence.startswith("It is not JSON")


REFUSED = {
    "empty.json": b"",
    "blank.jsonl": b" \n\n \n",
    "list.json": b"[]",
    "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10,
    "renamed.jsonl": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10,
    "packed.json.gz": b"\x1f\x8b\x08\0" + os.urandom(500),
    "noise.csv": bytes(range(256)) * 40,
    "torn.zip": b"PK\x03\x04" + b"\0" * 100,
    "torn.parquet": b"PAR1" + b"\0" * 100,
    "header.csv": b"instruction,output\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dataset_is_refused_in_two_sentences(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(REFUSED[name])
    with pytest.raises(Refused) as refused:
        open_dataset(tmp_path / name)
    assert refused.value.message.endswith(".") and refused.value.hint.endswith(".")


def zipped(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_a_zip_is_read_file_by_file_and_what_is_none_is_told(tmp_path: Path) -> None:
    entries = {
        "b/two.jsonl": TWO.encode(),
        "a.json": json.dumps([QA]).encode(),
        "README.md": b"# About",
        "cat.png": b"\x89PNG",
        "__MACOSX/a.json": b"rubbish",
    }
    dataset = open_dataset(zipped(tmp_path / "set.zip", entries))
    assert [(row.file, row.line) for row in dataset.rows()] == [
        ("a.json", 1), ("b/two.jsonl", 1), ("b/two.jsonl", 2),
    ]  # fmt: skip
    assert any("cat.png" in note and "README.md" in note for note in dataset.notes)
    assert sorted(os.listdir(tmp_path)) == ["set.zip"]


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a\\..\\..\\evil.json", "C:/e.json"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    entries = {"good.jsonl": TWO.encode(), name: TWO.encode()}
    with pytest.raises(Refused, match="would leave its folder"):
        open_dataset(zipped(tmp_path / "slip.zip", entries))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.jsonl")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(Refused, match="is a link"):
        open_dataset(tmp_path / "link.zip")


def test_a_bomb_is_refused_by_what_it_says(tmp_path: Path) -> None:
    data = f"{line(GERMAN)}\n".encode() * 500_000  # its beginning alone would not tell
    with pytest.raises(Refused, match="more than 100 times"):
        open_dataset(zipped(tmp_path / "bomb.zip", {"a.jsonl": data}))


def test_a_bomb_that_lies_about_its_size_is_stopped_while_it_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "liar.zip", {"a.jsonl": (line(QA) + "\n").encode() * 2_000_000})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size.to_bytes(4, "little")
    at = data.find(size)
    while at >= 0:  # in both headers
        data[at : at + 4] = (1_000_000).to_bytes(4, "little")
        at = data.find(size, at + 1)
    path.write_bytes(data)
    # zipfile itself stops at the size that is claimed: nothing more is ever unpacked.
    report = open_dataset(path).examine()
    assert report.rows == report.kept + report.left_out < 20_000
    assert report.findings["damaged"].count >= 1


def test_what_unpacks_is_counted_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "bomb.zip", {"a.jsonl": (line(QA) + "\n").encode() * 100_000})
    with monkeypatch.context() as trusting:
        trusting.setattr("backends.finetune.data.source.RATIO", 10**6)
        dataset = open_dataset(path)
    with pytest.raises(Refused, match="more than 100 times"):
        dataset.examine()


def test_entries_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "shared.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", TWO * 50)
        archive.filelist *= 100
    with pytest.raises(Refused, match="more than 100 times"):
        open_dataset(path)


def test_a_damaged_entry_gives_a_row_that_says_so_and_the_next_one_is_read(tmp_path: Path) -> None:
    long = "".join(f"{line({**QA, 'id': n})}\n" for n in range(3000)).encode()
    path = zipped(tmp_path / "a.zip", {"a.jsonl": long, "b.jsonl": TWO.encode()})
    data = bytearray(path.read_bytes())
    middle = data.index(b"PK\x03\x04", 10) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    report = open_dataset(path).examine()
    assert report.rows == report.kept + report.left_out
    assert any("damaged from here" in text for _, _, text in report.findings["damaged"].rows)
    assert report.kept >= 2


def test_an_excel_workbook_and_a_password_are_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="Excel"):
        open_dataset(zipped(tmp_path / "a.xlsx", {"xl/workbook.xml": b"<x/>"}))
    path = zipped(tmp_path / "locked.zip", {"a.jsonl": TWO.encode()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + at] |= 1
    path.write_bytes(data)
    with pytest.raises(Refused, match="password"):
        open_dataset(path)


def test_a_link_must_lead_into_an_allowed_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "data-evil"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.jsonl").write_text(TWO)
    (inside / "link.jsonl").symlink_to(outside / "a.jsonl")
    for path in (
        inside / "link.jsonl",
        inside,
        outside / "a.jsonl",
        inside / "../data-evil/a.jsonl",
    ):
        with pytest.raises(Refused, match="may read"):
            open_dataset(path, allowed=(inside,))
    assert open_dataset(inside / "link.jsonl", allowed=(inside, outside)).examine().rows == 2
    linked = open_dataset(inside, allowed=(inside, outside))
    assert not linked.changed() and linked.read_as(ReadOptions()).examine().rows == 2
    (inside / "link.jsonl").unlink()
    (inside / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused):
        open_dataset(inside)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name in ("pipe.jsonl", "loop.jsonl", "nothing.jsonl", "a\0b.jsonl"):
        with pytest.raises(Refused):
            open_dataset(tmp_path / name)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows = [{"messages": [{"role": "user", "content": "Grüße"},
                          {"role": "assistant", "content": f"Hallo {n}"}], "id": n}
            for n in range(1000)]  # fmt: skip
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=300)
    dataset = open_dataset(path)
    report = dataset.examine()
    assert (dataset.recognised.title, report.rows, report.kept) == ("Messages", 1000, 1000)
    assert next(iter(dataset.rows())).value == rows[0]
    assert open_dataset(zipped(tmp_path / "a.zip", {"a.parquet": path.read_bytes()})).examine().kept
    # Damaged in the middle: each row is still counted.
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = os.urandom(300)
    path.write_bytes(data)
    report = open_dataset(path).examine()
    assert report.rows == report.kept + report.left_out == 1000


def test_a_table_without_names_gets_some(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("What is it?,A thing.\nWho is it?,A person.\n")
    dataset = open_dataset(path)
    assert [row.value for row in dataset.rows()][0] == {
        "column 1": "What is it?", "column 2": "A thing.",
    }  # fmt: skip
    assert len(list(dataset.read_as(ReadOptions(header="names")).rows())) == 1


def test_text_loses_nothing(tmp_path: Path) -> None:
    text = "\n\n".join(f"# Part {n}\n\n{'word ' * (n * 40)}".rstrip() for n in range(60))
    for name in ("a.md", "a.txt"):
        (tmp_path / name).write_text(text)
        blocks = [row.value["text"] for row in open_dataset(tmp_path / name).rows()]
        assert 5 < len(blocks) < 60
        assert "".join("".join(blocks).split()) == "".join(text.split())
    lines = open_dataset(tmp_path / "a.txt", options=ReadOptions(text_rows="lines"))
    assert len(list(lines.rows())) == 119


def test_a_text_without_line_ends_is_cut_at_blanks(tmp_path: Path) -> None:
    text = "Hello world. " * 20_000
    (tmp_path / "a.txt").write_text(text)
    rows = [row.value["text"] for row in open_dataset(tmp_path / "a.txt").rows()]
    assert max(map(len, rows)) <= 16_000
    assert "".join(" ".join(rows).split()) == "".join(text.split())
    assert all(row.startswith(("Hello", "world")) for row in rows)


def test_where_no_row_can_be_read_it_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{'python': 1}\n" * 3)
    with pytest.raises(Refused, match=r"No row of a.jsonl can be read. Line 1: It is not JSON"):
        open_dataset(tmp_path / "a.jsonl")


def test_long_entries_are_not_scanned_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    long = {"instruction": "a", "output": '\\" { [ ' * 400_000}
    path.write_text(json.dumps([QA, long, QA]))
    assert open_dataset(path).examine().kept == 3


def test_streams_are_closed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = zipped(tmp_path / "a.zip", {"a.jsonl": TWO.encode() * 100})
    dataset = open_dataset(path)
    dataset.preview(3)
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]
