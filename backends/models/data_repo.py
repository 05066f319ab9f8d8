"""What a dataset on the hub consists of: which of its files are rows, and which belong together.

A choice is one split of one configuration in one form: what is in Parquet and in CSV as well is
taken once. Where a repository does not say what a file is for, its names tell, as they do for the
hub's own library: "train", "validation", "test" in a file's or a folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from backends.finetune.data.source import MAX_PARTS, is_about
from backends.models.repo import Choice, RepoFile, refuse_name

# The forms that the dataset doctor reads, the one to take first where there are several.
FORMS = {
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv",
    ".tsv": "tsv", ".zip": "zip", ".txt": "txt", ".md": "txt", ".markdown": "txt",
}  # fmt: skip
ORDER = tuple(dict.fromkeys(FORMS.values()))
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
RANK = {"train": 0, "": 1, "validation": 2, "test": 3}
FIRST = ("", "default", "main", "all")  # configurations to take before the others
PART = re.compile(r"(?P<stem>.+?)[-_](?P<number>\d{5})-of-(?P<of>\d{5})(-[0-9a-f]+)?")
# What a repository has beside its rows.
BESIDE = re.compile(
    r"(?i)(requirements.*|changelog|contributing|citation|notice)\.(txt|md)"
    r"|(dataset_dict|state|config|package|croissant)\.json"
)
PACKED = (".gz", ".zst", ".xz", ".bz2", ".tar", ".tgz", ".7z", ".arrow", ".pkl", ".pickle",
          ".npy", ".h5", ".xlsx", ".lance", ".db", ".sqlite")  # fmt: skip
SINGLES = 20  # files without a split that are offered one by one


def choices_of(name: str, files: Iterable[RepoFile]) -> tuple[Choice, ...]:
    """The parts of a dataset, the usual one first. Raises Refused for a file with a dangerous name.

    ids: train, test, …, all; of a configuration CONFIGURATION/train; in a second form train.csv;
    a ZIP, and one file of several that belong to no split, by its path.
    """
    groups: dict[tuple[str, str], dict[str, list[RepoFile]]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if (form := form_of(file)) and file.bytes:
            config, split = _place(file.path)
            groups.setdefault((config, split), {}).setdefault(form, []).append(file)
    found = [
        choice
        for key in sorted(groups, key=_usual_first)
        for choice in _of_group(*key, groups[key])
        if len(choice.files) <= MAX_PARTS
    ]
    for file in {file for choice in found for file in choice.files}:
        refuse_name(name, file, "dataset")
    return tuple({choice.id: choice for choice in reversed(found)}.values())[::-1]


def problem_of(name: str, files: Iterable[RepoFile]) -> str:
    """Two sentences, where there is nothing to choose."""
    listed = sorted(files, key=lambda file: file.path)
    if any(form_of(file) for file in listed):
        return f"{name} has more than {MAX_PARTS:,} files. Look for a copy in fewer, larger ones."
    packed = [_last(f) for f in listed if PurePosixPath(f.path).suffix.lower() in PACKED]
    if packed:
        return (
            f"{name} has its rows only as {packed[0][:80]}, which is not read here. "
            "Look for a copy in Parquet, JSON or CSV, or unpack it yourself and drop the file."
        )
    scripts = [_last(f) for f in listed if f.path.endswith(".py")]
    if scripts:
        return (
            f"{name} brings its rows only through a program of its own ({scripts[0][:80]}), which "
            "is never run here. Look on the hub for a copy in Parquet, JSON or CSV."
        )
    return f"{name} holds no file with rows. Look for a dataset with Parquet, JSON or CSV files."


def form_of(file: RepoFile) -> str:
    """In which form a file has its rows; "" for what is none of a dataset."""
    hidden = any(p.startswith((".", "_")) and p.strip(".") for p in file.path.split("/"))
    if hidden or is_about(file.path) or BESIDE.fullmatch(_last(file)):
        return ""
    return FORMS.get(PurePosixPath(file.path).suffix.lower(), "")


def missing_parts(files: Iterable[RepoFile]) -> bool:
    """Whether files that are named as one of several (…-00001-of-00003) lack the others."""
    seen: dict[tuple[str, str], set[str]] = {}
    for file in files:
        if found := PART.fullmatch(PurePosixPath(_last(file)).stem):
            key = (file.path.rpartition("/")[0], f"{found['stem']} {found['of']}")
            seen.setdefault(key, set()).add(found["number"])
    return any(len(numbers) < int(key[1].split()[-1]) for key, numbers in seen.items())


def _place(path: str) -> tuple[str, str]:
    """Configuration and split of a file, by its names."""
    *folders, last = path.split("/")
    stem = PurePosixPath(last).stem
    if (part := PART.fullmatch(stem)) and _split(part["stem"]):
        split = part["stem"]  # train_sft and train_gen are two
    else:
        split = _split(stem)
    for folder in reversed(folders):
        split = split or _split(folder)
    config = [f for f in folders if f.lower() != "data" and not _is_split(f)]
    return "/".join(config), split


def _split(name: str) -> str:
    """The first word that names a split."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((WORDS[word] for word in words if word in WORDS), "")


def _is_split(folder: str) -> bool:
    """Whether its name says nothing but which split is in it."""
    return all(word in WORDS for word in re.split(r"[^a-z]+", folder.lower()))


def _usual_first(key: tuple[str, str]) -> tuple[int, int, int, str, str]:
    config, split = key
    return RANK[_split(split)], config.lower() not in FIRST, split != "train", config, split


def _of_group(config: str, split: str, forms: dict[str, list[RepoFile]]) -> list[Choice]:
    """What has one split: in its best form, in the others, and file by file."""
    id = f"{config}/{split or 'all'}" if config else split or "all"
    title = f"{config}: {split or 'all of it'}" if config else split or "all of it"
    found: list[Choice] = []
    for form in sorted(forms, key=ORDER.index):
        files = forms[form]
        if form == "zip":
            found += [Choice(file.path, file.path, (file,)) for file in files]
        elif not found:
            found.append(Choice(id, title, tuple(files)))
        else:
            found.append(Choice(f"{id}.{form}", f"{title}, as {form}", tuple(files)))
        if form != "zip" and not split and 1 < len(files) <= SINGLES:
            found += [Choice(file.path, file.path, (file,)) for file in files]
    return found


def _last(file: RepoFile) -> str:
    return file.path.rpartition("/")[2]
