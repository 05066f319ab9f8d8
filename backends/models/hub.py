"""The hub's catalogue: search, one model's or dataset's page, whose token it is. Nothing is
downloaded here.

All functions wait for the network: the page calls them in a thread. What cannot be done is a
HubError, two sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.base import ModelRef, Refused
from backends.models import data_repo, hub_http, repo
from backends.models.check import BITS
from backends.models.hub_http import HubError
from backends.models.repo import Repo, RepoFile, What

# A tab's task as the hub calls it.
TASKS = {
    "chat": "text-generation",
    "finetune": "text-generation",
    "image": "text-to-image",
    "multimodal": "image-text-to-text",
    "speech": "automatic-speech-recognition",
}
EXPANDED = ("downloads", "likes", "gated", "tags", "pipeline_tag", "safetensors", "gguf",
            "lastModified")  # fmt: skip
MOST = 50
OWN_CODE = "custom_code"  # the hub's tag for a config with auto_map
WARNING = "{} brings code of its own, which is never run here. Take a GGUF of it, or another model."


@dataclass(frozen=True)
class Found:
    """One hit. `bytes` and `parameters` are 0 where the hub does not say; `formats` is empty where
    the model has neither safetensors nor GGUF, so that nothing of it can be used."""

    name: str
    task: str  # the tab, "" where it is for none
    downloads: int  # of the last 30 days
    likes: int
    gated: bool
    licence: str
    bytes: int
    parameters: int
    formats: tuple[str, ...]
    updated: str  # YYYY-MM-DD
    own_code: bool = False  # its safetensors want code of their own, which is never run here


def search(words: str, task: str = "", *, limit: int = 20, token: str = "") -> list[Found]:
    """The most downloaded models with these words in their name.

    task: a tab's (chat, image, multimodal, speech), or "" for all.
    """
    query: dict[str, Any] = {
        "search": " ".join(words.split())[:200],
        "sort": "downloads",
        "limit": min(max(limit, 1), MOST),
        "expand": list(EXPANDED),
    }
    if task:
        query["pipeline_tag"] = TASKS[task]
    listed = hub_http.api("api/models", token, query)
    return [_found(entry) for entry in listed if isinstance(entry, dict) and _named(entry)]


def read_repo(name: str, revision: str = "main", token: str = "", what: What = "model") -> Repo:
    """A model's or a dataset's files at one version, sorted into what can be downloaded.

    name: owner/name. revision: a branch, a tag or a commit. Raises HubError; Refused for a name
    that is none, or for files with names that are dangerous.
    """
    check_name(name, revision, what)
    path = f"api/{what}s/{name}/revision/{revision or 'main'}"
    said = hub_http.api(path, token, {"blobs": "true"}, about=name, what=what)
    commit = said.get("sha") if isinstance(said, dict) else None
    siblings = said.get("siblings") if isinstance(said, dict) else None
    if not isinstance(commit, str) or not isinstance(siblings, list):
        raise HubError("server", f"The hub's answer about {name} is not whole.", "Try again later.")
    if not commit.isalnum():
        raise HubError("server", f"The hub names no version of {name}.", "Try again later.")
    files = [file for entry in siblings if (file := _file(entry))]
    sorts = data_repo if what == "dataset" else repo
    choices = sorts.choices_of(name, files)
    tags = _texts(said.get("tags"))
    return Repo(
        name=name,
        revision=revision or "main",
        commit=commit,
        choices=choices,
        gated=bool(said.get("gated")),
        licence=_licence(tags),
        task=_task(said.get("pipeline_tag")),
        problem="" if choices else sorts.problem_of(name, files),
        warning=WARNING.format(name) if OWN_CODE in tags and what == "model" else "",
        what=what,
    )


def whoami(token: str) -> str:
    """The account that a token belongs to. Raises HubError where the hub does not accept it."""
    said = hub_http.api("api/whoami-v2", token)
    name = said.get("name") if isinstance(said, dict) else None
    return str(name or "an account without a name")[:100]


def check_name(name: str, revision: str = "main", what: What = "model") -> None:
    """Raises Refused for what is no name of one on the hub, links and paths above all."""
    try:
        ref = ModelRef.parse(f"hub:{name}@{revision}")
    except Refused:
        ref = ModelRef("none", "")
    if ref.name != name or "/" not in name or set(revision) <= {"."} or ref.file:
        raise Refused(f"{name[:80]!r} does not name a {what} on the hub.", "Write owner/name.")


def _found(entry: Mapping[str, Any]) -> Found:
    tags = _texts(entry.get("tags"))
    counts = entry.get("safetensors")
    quantised = entry["gguf"] if isinstance(entry.get("gguf"), dict) else {}
    by_type = counts.get("parameters") if isinstance(counts, dict) else None
    sizes = (
        {k: v for k, v in by_type.items() if type(v) is int} if isinstance(by_type, dict) else {}
    )
    return Found(
        name=str(entry["id"]),
        task=_task(entry.get("pipeline_tag")),
        downloads=_count(entry.get("downloads")),
        likes=_count(entry.get("likes")),
        gated=bool(entry.get("gated")),
        licence=_licence(tags),
        bytes=sum(count * BITS.get(kind, 16) // 8 for kind, count in sizes.items()),
        parameters=sum(sizes.values()) or _count(quantised.get("total")),
        formats=tuple(format for format in ("safetensors", "gguf") if format in tags),
        updated=str(entry.get("lastModified") or "")[:10],
        own_code=OWN_CODE in tags,
    )


def _named(entry: Mapping[str, Any]) -> bool:
    try:
        check_name(str(entry.get("id")))
    except Refused:
        return False  # a name of the hub's first years, without an owner
    return True


def _file(entry: Any) -> RepoFile | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("rfilename"), str):
        return None
    large = entry.get("lfs")
    if isinstance(large, dict):
        size = large.get("size", entry.get("size"))
        return RepoFile(entry["rfilename"], _count(size), sha256=str(large.get("sha256") or ""))
    return RepoFile(
        entry["rfilename"], _count(entry.get("size")), git=str(entry.get("blobId") or "")
    )


def _task(pipeline: Any) -> str:
    return next((task for task, name in TASKS.items() if name == pipeline), "")


def _licence(tags: list[str]) -> str:
    found = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    return found[0] if found else ""


def _texts(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
