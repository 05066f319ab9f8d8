"""What the Models tab lists: the catalogue, what is on this machine, what is coming, and what the
hub found. One `Entry` each, with what of it fits on this machine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import psutil

from backends.base import ModelRef, Refused
from backends.card.badges import Badge, Budget, badges, of_figures
from backends.card.source import read_source
from backends.models import library, plain_copy
from backends.models.adapters import is_adapter
from backends.models.catalogue import Row, read_rows
from backends.models.convert import pickles_of
from backends.models.hub import Found
from backends.models.library import Listed
from backends.models.usage import Use
from backends.runtime.downloads import Download
from webui.bench import Bench

GB = 2**30


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    ref      as the model is named everywhere; hub:OWNER/NAME for what is not here yet
    name     owner/name on the hub, "" for what is not from there
    bytes    on this disk where it is `here`, else of the download; 0: not known
    usable   something in this version opens it
    problem  why it cannot be loaded, as two sentences
    choice   what of it to download (`repo.Choice.id`), "" the first
    """

    ref: str
    title: str
    task: str = ""
    name: str = ""
    family: str = ""
    licence: str = ""
    note: str = ""
    gated: bool = False
    bytes: int = 0
    parameters: int = 0
    here: bool = False
    starter: bool = False
    usable: bool = True
    loaded: bool = False
    problem: str = ""
    convertible: bool = False  # its weights are old pickles
    coded: bool = False  # its config names code that it does not need
    choice: str = ""
    badges: tuple[Badge, ...] = ()
    download: Download | None = None
    popular: int = 0  # downloads in a month, of a hit

    @property
    def id(self) -> str:
        """The id of the catalogue or the reference: what Chat's list of models calls it."""
        return next((row.id for row in read_rows() if str(row.ref) == self.ref), self.ref)


def budget_of(bench: Bench) -> Budget:
    """What a model may take of this machine while no other is loaded."""
    ram = psutil.virtual_memory().total
    ram -= max(2 * GB, ram // 10)
    for gpu in bench.reading.gpus:
        device = f"cuda:{gpu.index}"
        if not gpu.error and gpu.total_bytes:
            return Budget(device, max(0, gpu.total_bytes - bench.reserve_bytes(device)), ram)
    return Budget("cpu", ram, ram)


def entries(bench: Bench, hits: Sequence[Found] = (), uses: Sequence[Use] = ()) -> list[Entry]:
    """All of them: starters, the catalogue, what else is here, then hits that are not among those.

    `uses` tell what is on the disk besides, as the rest of a download that was given up.
    """
    budget = budget_of(bench)
    here = {str(model.ref): model for model in library.list_everything()}
    coming = coming_now(bench.downloads.listed())
    loaded = {
        r.model
        for r in bench.supervisor.residents.values()
        if r.state not in ("failed", "unloaded")
    }
    found: list[Entry] = []
    for row in read_rows():
        found.append(_of_row(row, here.pop(str(row.ref), None), budget))
    found += [_of_listed(model, budget) for model in here.values() if _shown(model)]
    known = {entry.ref for entry in found if entry.here}
    whole = {entry.name for entry in found if entry.here}
    found += [_of_use(use) for use in uses if _is_rest(use, known, whole, coming)]
    names = {entry.name for entry in found} - {""}
    found += [_of_hit(hit, budget) for hit in hits if hit.name not in names]
    names |= {entry.name for entry in found}
    found += [_of_download(d) for d in coming.values() if d.name not in names]
    return [
        replace(e, download=coming.get(e.name) if e.name else None, loaded=e.ref in loaded)
        for e in found
    ]


def coming_now(listed: Iterable[Download]) -> dict[str, Download]:
    """The download that a model's row shows, by the model's name. Of several forms of one model
    the one that runs: the others show themselves when it is their turn."""
    models = [d for d in listed if d.what == "model" and d.open]
    return {d.name: d for d in sorted(models, key=lambda d: d.state == "running")}


def matching(found: Iterable[Entry], words: str | None, task: str, where: str) -> list[Entry]:
    """Those with all the words in their title, name, family or licence, of one task ("" all).

    where: "here" (or coming), "fits" (some way to load it fits) or "all".
    """
    wanted = (words or "").casefold().split()

    def fits(entry: Entry) -> bool:
        text = f"{entry.title} {entry.name} {entry.family} {entry.licence}".casefold()
        if not all(word in text for word in wanted) or (task and entry.task != task):
            return False
        if where == "here":
            return entry.here or entry.download is not None
        return where != "fits" or any(b.level != "bad" for b in entry.badges)

    return [entry for entry in found if fits(entry)]


def _of_row(row: Row, listed: Listed | None, budget: Budget) -> Entry:
    made = row.source is not None and row.source.kind == "starter"  # from another, at first use
    return Entry(
        ref=str(row.ref), title=row.title, task=row.task, family=row.family, licence=row.licence,
        name=row.ref.name if row.ref.kind == "hub" else "", note=row.note, gated=row.gated,
        bytes=listed.bytes if listed and not made else row.size_mb * 1_000_000,
        parameters=row.parameters, here=listed is not None, starter=row.starter,
        usable=bool(row.backend), problem=listed.problem if listed else "", choice=row.choice,
        coded=bool(listed and listed.problem) and _names_code(row.ref),
        badges=badges_of_row(row.id, budget),
    )  # fmt: skip


@lru_cache(maxsize=500)
def badges_of_row(id: str, budget: Budget) -> tuple[Badge, ...]:
    row = next(row for row in read_rows() if row.id == id)
    if row.backend == "llama_cpp":  # a file that is used as it is
        return badges_of_file(row.ref, Budget("cpu", budget.ram, budget.ram))
    source = of_figures(row.task, row.config, row.parameters, row.parts)
    return badges(source, budget) if source else ()


def badges_of_file(ref: ModelRef, budget: Budget) -> tuple[Badge, ...]:
    """Of a model that is here, by the headers of its files; none where they cannot be read."""
    try:
        return badges(read_source(library.locate(ref)), budget)
    except (Refused, OSError, ValueError):
        return ()


def _of_listed(model: Listed, budget: Budget) -> Entry:
    """One of the user's own, or from the hub's cache. A GGUF runs on the CPU in this build."""
    if model.format == "gguf":
        budget = Budget("cpu", budget.ram, budget.ram)
    return Entry(
        ref=str(model.ref), title=model.title, task=model.task, licence=model.licence,
        name=model.ref.name if model.ref.kind == "hub" else "", bytes=model.bytes,
        parameters=model.parameters, here=True, usable=bool(model.backend), problem=model.problem,
        convertible=bool(model.problem) and _has_pickles(model.ref),
        coded=bool(model.problem) and _names_code(model.ref),
        badges=() if model.problem else badges_of_file(model.ref, budget),
    )  # fmt: skip


def _names_code(ref: ModelRef) -> bool:
    try:
        return plain_copy.can_be_made(library.locate(ref))
    except (Refused, OSError):
        return False


def _has_pickles(ref: ModelRef) -> bool:
    try:
        return bool(pickles_of(library.locate(ref)))
    except (Refused, OSError):
        return False


def _shown(model: Listed) -> bool:
    """Adapters are Chat's to attach: they are no models."""
    try:
        return not is_adapter(library.locate(model.ref))
    except (Refused, OSError):
        return True


def _is_rest(use: Use, known: set[str], whole: set[str], coming: Collection[str]) -> bool:
    """What lies in the hub's cache and is no model of the list, nor on its way."""
    if use.place != "hub" or use.ref is None or not use.bytes:
        return False
    name = use.ref.name
    return str(use.ref) not in known and name not in whole and name not in coming


def _of_use(use: Use) -> Entry:
    note = use.note or "It holds nothing that can be loaded."
    mend = "Download it again to go on, or delete it." if use.note else "Delete it for the room."
    return Entry(
        ref=str(use.ref), title=use.title, name=use.ref.name if use.ref else "", bytes=use.bytes,
        here=True, problem=f"{note} {mend}",
    )  # fmt: skip


def _of_hit(hit: Found, budget: Budget) -> Entry:
    source = of_figures(hit.task or "chat", {}, hit.parameters, {})
    gguf = hit.formats == ("gguf",)
    return Entry(
        ref=f"hub:{hit.name}", title=hit.name, task=hit.task, name=hit.name, licence=hit.licence,
        gated=hit.gated, bytes=hit.bytes, parameters=hit.parameters, usable=bool(hit.formats),
        badges=badges(source, budget) if source and not gguf else (), popular=hit.downloads,
    )  # fmt: skip


def _of_download(download: Download) -> Entry:
    ref = download.ref or f"hub:{download.name}"
    return Entry(ref=ref, title=download.title, name=download.name, bytes=download.bytes)
