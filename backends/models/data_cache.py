"""Datasets of the hub on this machine: which are whole, and their files where they are read.

A snapshot in the hub's cache holds whatever was taken of a version, by whomever. So what a version
consists of is noted in WERKBANK_CACHE/hub-datasets when the hub says it, and the files of one
choice are laid out in a folder of their own, as second names of those in the cache: nothing is
copied, and what was taken before or comes later is not read along.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from backends.base import Refused
from backends.models import data_repo, library
from backends.models.hub import check_name
from backends.models.hub_store import RepoStore
from backends.models.repo import Choice, Repo, RepoFile
from backends.runtime.disk import read_json, write_json

COMMIT = re.compile(r"[0-9a-f]{40}")
# A choice is found by its name among those there are, and is never a path: whatever a folder on the
# hub may be called.
REFERENCE = re.compile(r"hub:([^:@]+)(?:@([^:@]+))?(?::([^\x00-\x1f]{1,400}))?")
USUAL = ("train", "all")  # choices that need not be named beside the name


def parse(text: str) -> tuple[str, str, str]:
    """Of `hub:owner/name[@revision][:choice]` the name, the revision (main) and the choice ("").

    Raises Refused.
    """
    named = REFERENCE.fullmatch(text.strip())
    if not named:
        raise Refused(f"{text[:80]!r} does not name a dataset on the hub.", "Write hub:owner/name.")
    name, revision, choice = named[1], named[2] or "main", named[3] or ""
    check_name(name, revision, "dataset")
    return name, revision, choice


def note(repo: Repo) -> None:
    """Keep what the hub said that this version consists of. Raises OSError."""
    files = sorted({file for choice in repo.choices for file in choice.files}, key=lambda f: f.path)
    file = _noted(repo.name, repo.commit)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"name": repo.name, "files": [asdict(one) for one in files]})


def here(
    name: str, revision: str, choice_id: str = "", *, offline: bool = False
) -> tuple[Repo, Choice] | None:
    """The version of it that is on this machine, and the choice, where all its files are.

    Of what another program downloaded nobody noted what it consists of: what lies there may be the
    test split alone. So the hub is to be asked first, and only `offline` it is what lies there: a
    choice that is named, or one that is training rows by its name; never where a file is named as
    one of several that are not all there. Raises Refused where there is no such choice in it.
    """
    store = RepoStore(library.hub_cache(), name, "dataset")
    commit = _commit(store, revision)
    if not commit:
        return None
    files, known = _files_of(store, name, commit)
    if not known and not offline:
        return None
    choices = data_repo.choices_of(name, files)
    if not choices or (not known and choice_id not in ("", *(c.id for c in choices))):
        return None
    repo = Repo(name, revision, commit, choices, what="dataset")
    choice = repo.choice(choice_id)
    if not known and (
        not (choice_id or choice.id in USUAL) or data_repo.missing_parts(choice.files)
    ):
        return None
    return (repo, choice) if all(store.has(commit, file) for file in choice.files) else None


def lay_out(name: str, commit: str, choice: Choice, folder: Path) -> Path:
    """Make `folder` hold the choice's files and return what is to be read: the folder, or a ZIP.

    Second names where the disk has them, else links, else copies. Raises OSError.
    """
    store = RepoStore(library.hub_cache(), name, "dataset")
    for file in choice.files:
        target = folder.joinpath(*file.path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        _second_name(store.pointer(commit, file).resolve(strict=True), target)
    single = choice.files[0].path if len(choice.files) == 1 else ""
    return folder / single if single.lower().endswith(".zip") else folder


def _second_name(file: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # another disk, or one that has no such thing
        os.link(file, target)
        return
    try:
        target.symlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


def _commit(store: RepoStore, revision: str) -> str:
    """Which commit a revision is here; "" where it is not."""
    if COMMIT.fullmatch(revision):
        return revision if (store.folder / "snapshots" / revision).is_dir() else ""
    try:
        said = (store.folder / "refs" / revision).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return said if COMMIT.fullmatch(said) else ""


def _files_of(store: RepoStore, name: str, commit: str) -> tuple[Iterable[RepoFile], bool]:
    """The files of a version, and whether the hub said that these are all."""
    said = read_json(_noted(name, commit)).get("files")
    try:
        if isinstance(said, list) and said:
            return [RepoFile(**one) for one in said], True
    except TypeError:
        pass
    snapshot = store.folder / "snapshots" / commit
    found = []
    for path in sorted(snapshot.rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file():
                etag = path.resolve().name if path.is_symlink() else "0" * 40
                inner = path.relative_to(snapshot).as_posix()
                found.append(RepoFile(inner, path.stat().st_size, git=etag))
    return found, False


def _noted(name: str, commit: str) -> Path:
    return library.cache() / "hub-datasets" / name.replace("/", "--") / f"{commit}.json"
