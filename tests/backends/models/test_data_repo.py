"""Which files of a dataset on the hub are taken: splits, configurations, forms, bad names."""

from __future__ import annotations

import pytest

from backends.base import Refused
from backends.models.data_repo import choices_of, missing_parts, problem_of
from backends.models.repo import RepoFile

ETAG = "a" * 40


def files(*paths: str) -> list[RepoFile]:
    return [RepoFile(path, 10, git=ETAG) for path in paths]


def choices(*paths: str) -> dict[str, list[str]]:
    return {c.id: [f.path for f in c.files] for c in choices_of("a/b", files(*paths))}


def usual(*paths: str) -> list[str]:
    return next(iter(choices(*paths).values()))


def test_the_training_split_is_the_usual_choice() -> None:
    found = choices(
        "README.md", ".gitattributes", "data/test-00000-of-00001.parquet",
        "data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet",
        "data/validation-00000-of-00001.parquet",
    )  # fmt: skip
    assert list(found) == ["train", "validation", "test"]
    assert found["train"] == [f"data/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert usual("train/a.jsonl", "train/b.jsonl", "test/a.jsonl") == [
        "train/a.jsonl",
        "train/b.jsonl",
    ]


def test_what_is_no_test_is_the_usual_choice_where_nothing_is_called_training() -> None:
    found = choices("alpaca_data.json", "dev.json", "eval_set.jsonl", "LICENSE.txt")
    assert list(found) == ["all", "validation", "test"]
    assert usual("latest.csv", "test.csv") == ["latest.csv"]  # "latest" is no "test"
    assert usual("test.csv") == ["test.csv"]  # it is all there is


def test_splits_and_configurations_are_not_mixed() -> None:
    found = choices(
        "main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet",
        "socratic/train-00000-of-00001.parquet",
    )  # fmt: skip
    assert list(found) == ["main/train", "socratic/train", "main/test"]
    two = choices(*(f"data/train_{n}-00000-of-00001.parquet" for n in ("gen", "sft")))
    assert list(two) == ["train_gen", "train_sft"] and all(len(f) == 1 for f in two.values())


def test_the_same_rows_in_two_forms_are_taken_once() -> None:
    found = choices("train.csv", "train.jsonl", "train.parquet")
    assert found == {
        "train": ["train.parquet"], "train.jsonl": ["train.jsonl"], "train.csv": ["train.csv"],
    }  # fmt: skip


def test_files_of_no_split_come_together_or_one_by_one() -> None:
    found = choices("a.jsonl", "b.jsonl", "more.zip")
    assert found["all"] == ["a.jsonl", "b.jsonl"]
    assert found["a.jsonl"] == ["a.jsonl"] and found["more.zip"] == ["more.zip"]


def test_what_stands_beside_the_rows_is_no_row() -> None:
    assert not choices("README.md", "dataset_infos.json", "requirements.txt", "config.json",
                       "dataset_dict.json", ".cache/x.json", "_temp/x.json")  # fmt: skip
    assert choices_of("a/b", [RepoFile("empty.json", 0, git=ETAG)]) == ()


def said(*paths: str) -> str:
    assert not choices(*paths)
    return problem_of("a/b", files(*paths))


def test_why_there_is_nothing_to_take_is_two_sentences() -> None:
    assert "program of its own (b.py), which is never run" in said("b.py", "README.md")
    assert "only as rows.jsonl.gz" in said("rows.jsonl.gz", "b.py")
    assert "holds no file with rows" in said("README.md")
    many = [f"{n}.jsonl" for n in range(2_100)]
    assert "more than 2,000 files" in said(*many)


@pytest.mark.parametrize(
    "path",
    ["../train.json", "/etc/train.json", "a/../../train.json", "a\\train.json", "C:/train.json",
     "train\n.json", "nul.json", "a./train.json", "a//train.json", "x" * 500 + ".json"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="cannot be kept safely") as caught:
        choices(path)
    assert caught.value.hint == "Look for another copy of the dataset."
    with pytest.raises(Refused):
        choices_of("a/b", [RepoFile("train.json", 9, git="../../x")])


def test_parts_that_are_missing_are_noticed() -> None:
    assert missing_parts(files("train-00000-of-00002.parquet"))
    assert not missing_parts(files("t-00000-of-00002.parquet", "t-00001-of-00002.parquet"))
    assert not missing_parts(files("a.json"))
