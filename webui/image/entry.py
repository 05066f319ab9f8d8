"""One entry of the queue of pictures, and its folder:

HOME/pictures/queue/<id>/entry.json   replaced whole at every change that counts
HOME/pictures/queue/<id>/input-1.png  pictures that it begins with, the entry's own
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from backends.base import Refused
from backends.params import read
from backends.runtime.disk import read_json, write_json

ID = re.compile(r"[0-9a-f]{16}")
State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
OVER = ("done", "failed", "cancelled", "interrupted")
SUMMED = ("_seconds", "_wh")  # ends of the names in a usage that add up


@dataclass
class Run:
    """One batch of an entry: what differs from the rest, and what became of it.

    seconds: by the clock, from its turn to its end. usage: as the model's Done said it.
    """

    change: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    place: tuple[int, ...] = ()
    done: bool = False
    failed: str = ""
    seconds: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)


@dataclass(eq=False)  # an entry equals itself alone
class Entry:
    """`model` is a reference, `params` what ImageParams takes, `page` who asked.

    `status`, `step`, `total` and `preview` (a path) are of this moment and are not saved. Times
    are in Unix seconds. `sheet` is the picture of a grid's sheet.
    """

    id: str
    model: str
    title: str = ""
    options: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    page: str = ""
    grid: dict[str, Any] | None = None
    added: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    state: State = "waiting"
    note: str = ""
    sheet: str = ""
    status: str = ""
    step: float = 0.0
    total: float = 0.0
    preview: str = ""
    previews: int = 0  # how many there were

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def done_runs(self) -> int:
        return sum(run.done for run in self.runs)

    @property
    def pictures(self) -> list[str]:
        """Ids in the gallery, in the order in which they were drawn."""
        return [id for run in self.runs for id in run.pictures]

    @property
    def seconds(self) -> float:
        """All its runs took together."""
        return sum(run.seconds for run in self.runs)

    @property
    def usage(self) -> dict[str, float]:
        """Seconds and energy of its runs together, by the names that the model gave them."""
        total: dict[str, float] = {}
        for run in self.runs:
            for name, value in run.usage.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if number and name.endswith(SUMMED):
                    total[name] = total.get(name, 0.0) + value
        return total

    def end(self, state: State, now: float, note: str = "") -> None:
        self.state, self.note, self.ended = state, note or self.note, now
        self.status = self.preview = ""

    def next_run(self) -> tuple[int, Run] | None:
        """The first that is neither done nor failed, with its number from 0."""
        for number, run in enumerate(self.runs):
            if not run.done and not run.failed:
                return number, run
        return None


MOMENT = ("status", "step", "total", "preview", "previews")


class Folders:
    """The folders of all entries, and their order. Every method raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, id: str) -> Path:
        assert ID.fullmatch(id)
        return self.folder / id

    def save(self, entry: Entry, *, durable: bool = False) -> None:
        """`durable` waits for the disk, so for a thread."""
        place = self.of(entry.id)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {name: value for name, value in asdict(entry).items() if name not in MOMENT}
        write_json(place / "entry.json", kept, durable=durable)

    def save_order(self, entries: list[Entry], paused: bool, why: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        order = {"order": [entry.id for entry in entries], "paused": paused, "why": why}
        write_json(self.folder / "order.json", order)

    def load(self) -> tuple[list[Entry], bool, str]:
        """All entries in their order, whether the queue was paused, and why.

        What cannot be read is passed over; what the order does not know comes last.
        """
        said = read_json(self.folder / "order.json")
        listed = said.get("order")
        order = {str(id): n for n, id in enumerate(listed if isinstance(listed, list) else [])}
        found = [entry for id in self._ids() if (entry := self._read(id))]
        found.sort(key=lambda entry: (order.get(entry.id, len(order)), entry.added))
        return found, said.get("paused") is True, str(said.get("why") or "")

    def delete(self, id: str) -> None:
        shutil.rmtree(self.of(id), ignore_errors=True)

    def _ids(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as listed:
            yield from (entry.name for entry in listed if ID.fullmatch(entry.name))

    def _read(self, id: str) -> Entry | None:
        data = read_json(self.of(id) / "entry.json")
        try:
            entry = read(Entry, {k: v for k, v in data.items() if k not in MOMENT})
        except ValueError:
            return None
        return entry if entry.id == id else None

    # Pictures to begin with

    def own(self, id: str, params: Mapping[str, Any], allowed: list[Path]) -> dict[str, Any]:
        """`params` with copies of its pictures, which lie in the entry's folder from now on.

        Raises Refused for one that lies in none of the folders `allowed`, links followed.
        """
        made, number = dict(params), 0

        def copied(path: str) -> str:
            nonlocal number
            number += 1
            return str(self._copy(Path(path), self.of(id), number, allowed))

        for name in ("image", "mask"):
            if made.get(name):
                made[name] = copied(str(made[name]))
        if made.get("controls"):
            made["controls"] = [
                {**one, "image": copied(str(one["image"]))} if one.get("image") else one
                for one in made["controls"]
            ]
        return made

    def _copy(self, source: Path, place: Path, number: int, allowed: list[Path]) -> Path:
        try:
            real = source.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise Refused(
                "The picture to begin with is not there any more.", "Choose it again."
            ) from error
        if not any(real.is_relative_to(folder.resolve()) for folder in allowed):
            raise Refused(
                "The picture to begin with does not lie where pictures are put.",
                "Drop it onto the page.",
            )
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        ending = re.sub(r"[^a-z0-9.]", "", real.suffix.lower())[:8]
        copy = place / f"input-{number}{ending}"
        shutil.copyfile(real, copy)
        return copy


def new_id() -> str:
    return secrets.token_hex(8)
