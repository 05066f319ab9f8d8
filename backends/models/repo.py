"""What a model on the hub consists of, and which of its files are worth downloading.

Only weights in safetensors or GGUF, and the small files that say how to use them. What a dataset
consists of is in data_repo.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from backends.base import ModelRef, Refused
from backends.models.check import gguf_name_parts
from backends.models.library import name_id

What = Literal["model", "dataset"]  # as the hub calls its kinds of repositories
SINGLE = (".gguf", ".safetensors")
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
SMALL_BYTES = 64 * 2**20  # a tokenizer has up to 33 MB
ELSEWHERE = {"onnx", "openvino", "original", "flax", "tf", "coreml", "gguf", "metal", "runs"}
PLAIN = re.compile(r"[\w][\w .,+()=@-]*")
USUAL = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
WEIGHTS = re.compile(
    r"(?P<stem>[^.]+?)(\.(?P<variant>[A-Za-z0-9_]+))?(?P<part>-\d{5}-of-\d{5})?\.safetensors"
)
QUANTISATION = re.compile(
    r"(?i)(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|F16|F32|FP16|MXFP4\w*))"
)


@dataclass(frozen=True)
class RepoFile:
    """One file. `sha256` where the hub knows it (large files), else `git` is its object's id."""

    path: str
    bytes: int
    sha256: str = ""
    git: str = ""

    @property
    def etag(self) -> str:
        """What the hub's cache calls its blob."""
        return self.sha256 or self.git


@dataclass(frozen=True)
class Choice:
    """One way to have it: all safetensors of a model, or one GGUF; one split of a dataset."""

    id: str
    title: str
    files: tuple[RepoFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def ref(self, name: str, revision: str = "main") -> ModelRef:
        """How it is named once it is here."""
        single = ""
        if self.id.endswith(SINGLE):
            weights = [f.path for f in self.files if f.path.endswith(SINGLE)]
            *inner, last = weights[0].split("/")
            single = "/".join([*inner, name_id(last)])
        return ModelRef("hub", name, "" if revision == "main" else revision, single)


@dataclass(frozen=True)
class Repo:
    """A model's or a dataset's page at one commit. `problem`: why nothing of it can be used, as two
    sentences; `warning`: what should be known before it is downloaded."""

    name: str
    revision: str
    commit: str
    choices: tuple[Choice, ...]
    gated: bool = False
    licence: str = ""
    task: str = ""
    problem: str = ""
    warning: str = ""
    what: What = "model"

    @property
    def usual(self) -> Choice | None:
        """What to offer first: all its safetensors, the GGUF of usual quality, else the first."""
        whole = [c for c in self.choices if c.id == "safetensors"]
        usual = [c for q in USUAL for c in self.choices if c.title == f"GGUF {q}"]
        return next(iter([*whole, *usual, *self.choices]), None)

    def choice(self, id: str = "") -> Choice:
        """The choice of that id; the usual one where none is named. Raises Refused."""
        found = {choice.id: choice for choice in self.choices}.get(id) if id else self.usual
        if found:
            return found
        if self.problem:
            happened, _, hint = self.problem.partition(". ")
            raise Refused(f"{happened}.", hint)
        raise Refused(f"{self.name} has no {id} (any more).", "Pick one of what it has now.")


def choices_of(name: str, files: Iterable[RepoFile]) -> tuple[Choice, ...]:
    """What can be downloaded of these files. Raises Refused for a file with a dangerous name."""
    listed = sorted(files, key=lambda file: file.path)
    choices = (*_safetensors(listed), *_ggufs(listed))
    for file in {file for choice in choices for file in choice.files}:
        refuse_name(name, file)
    return choices


def problem_of(name: str, files: Iterable[RepoFile]) -> str:
    """Two sentences, where there is nothing to choose."""
    pickled = [f for f in files if f.path.endswith((".bin", ".pt", ".pth", ".ckpt", ".msgpack"))]
    if pickled:
        return (
            f"{name} has its weights only as {PurePosixPath(pickled[0].path).name}, in a form that "
            "could run code. Look for a copy with safetensors or GGUF files."
        )
    return f"{name} holds no weights in safetensors or GGUF. Look for another copy of the model."


def refuse_name(name: str, file: RepoFile, what: What = "model") -> None:
    """Raises Refused where a file's name or id could lead out of its folder, on any system."""
    parts = file.path.split("/")
    plain = all(
        PLAIN.fullmatch(p) and not RESERVED.fullmatch(p) and p[-1] not in ". " for p in parts
    )
    known = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", file.etag)
    if not plain or not known or len(file.path) > 400:
        raise Refused(
            f"{name} has a file that cannot be kept safely: {file.path[:80]!r}.",
            f"Look for another copy of the {what}.",
        )


def quantisation(file_name: str) -> str:
    """What a GGUF's name says of its numbers, as Q4_K_M; empty where it says nothing."""
    found = QUANTISATION.findall(file_name.removesuffix(".gguf"))
    return found[-1].upper() if found else ""


# safetensors


def _safetensors(files: list[RepoFile]) -> list[Choice]:
    weights = [f for f in files if f.path.endswith(".safetensors") and not _elsewhere(f)]
    root = [f for f in weights if "/" not in f.path]
    names = {f.path for f in files}
    if "model_index.json" in names:  # diffusers: a folder for each component
        inner = [f for f in weights if "/" in f.path]
        return _whole(files, inner, folders=True) if inner else _single(root)
    if not root:
        return []
    settled = {"config.json", "adapter_config.json", "model.safetensors.index.json", "params.json"}
    return _whole(files, root, folders=False) if names & settled else _single(root)


def _whole(files: list[RepoFile], weights: list[RepoFile], folders: bool) -> list[Choice]:
    """One choice, and a second one in half precision where the model has one."""
    plain = _picked(weights, "")
    half = _picked(weights, "fp16")
    found = []
    if plain:
        found.append(Choice("safetensors", "safetensors", (*_small(files, plain, folders), *plain)))
    if half != plain:
        small = _small(files, half, folders)
        found.append(Choice("safetensors.fp16", "safetensors, half precision", (*small, *half)))
    return found


def _picked(weights: list[RepoFile], variant: str) -> list[RepoFile]:
    """In each folder the files of the wanted variant; the plain ones where it has none of them."""
    picked: list[RepoFile] = []
    for folder in sorted({_folder(f) for f in weights}):
        here = [(f, WEIGHTS.fullmatch(_name(f))) for f in weights if _folder(f) == folder]
        groups: dict[str, list[RepoFile]] = {}  # a name with other dots in it is a group as well
        for file, named in here:
            groups.setdefault((named["variant"] or "") if named else "", []).append(file)
        picked += _without_doubles(groups.get(variant) or groups.get("") or [f for f, _ in here])
    return picked


def _without_doubles(files: list[RepoFile]) -> list[RepoFile]:
    """Mistral's consolidated.safetensors beside the same in parts, parts beside the whole."""
    ours = [f for f in files if not _name(f).startswith("consolidated")] or files
    whole = {_stem(f) for f in ours if not _is_part(f)}
    return [f for f in ours if not (_is_part(f) and _stem(f) in whole)]


def _small(files: list[RepoFile], weights: list[RepoFile], folders: bool) -> list[RepoFile]:
    parts = {(_folder(f), _stem(f)) for f in weights if _is_part(f)}
    found = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.suffix not in SMALL or file.bytes > SMALL_BYTES or _elsewhere(file):
            continue
        if (len(path.parts) > 1 and not folders) or path.parts[0].startswith("."):
            continue
        if path.name.endswith(".index.json"):
            stem = re.split(r"\.", path.name)[0]
            if "safetensors" not in path.name or (_folder(file), stem) not in parts:
                continue
        found.append(file)
    return found


def _single(files: list[RepoFile]) -> list[Choice]:
    return [Choice(f.path, PurePosixPath(f.path).name, (f,)) for f in files]


# GGUF


def _ggufs(files: list[RepoFile]) -> list[Choice]:
    known = {f.path: f for f in files if f.path.endswith(".gguf")}
    found = []
    for path, file in known.items():
        name = _name(file)
        parts = gguf_name_parts(name)
        if name != parts[0] or name.startswith("mmproj"):
            continue
        wanted = [f"{_folder(file)}/{part}".lstrip("/") for part in parts]
        if all(part in known for part in wanted):
            title = quantisation(name) or name
            found.append(Choice(path, f"GGUF {title}", tuple(known[p] for p in wanted)))
    titles = [choice.title for choice in found]
    return sorted(
        (c if titles.count(c.title) == 1 else Choice(c.id, f"GGUF {c.id}", c.files) for c in found),
        key=lambda choice: choice.bytes,
    )


def _elsewhere(file: RepoFile) -> bool:
    return any(part.lower() in ELSEWHERE for part in file.path.split("/")[:-1])


def _name(file: RepoFile) -> str:
    return file.path.rpartition("/")[2]


def _folder(file: RepoFile) -> str:
    return file.path.rpartition("/")[0]


def _is_part(file: RepoFile) -> bool:
    named = WEIGHTS.fullmatch(_name(file))
    return bool(named and named["part"])


def _stem(file: RepoFile) -> str:
    named = WEIGHTS.fullmatch(_name(file))
    return named["stem"] if named else _name(file)
