"""The user's datasets: dropped here or lying in an allowed folder, and how each is to be read.

    HOME/datasets/<id>/how.json     replaced whole: name, place, reading, mapping, steps, undo
    HOME/datasets/<id>/file/<name>  of an upload; what lies in an allowed folder is never copied,
                                    and what came from the hub has second names here
    HOME/datasets/.trash/<id>       deleted, until a day later

Blocking, and quick but for a move between disks: call it in a thread where that may be.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.base import Refused
from backends.finetune.data import source
from backends.models import adding
from backends.models.gguf_copy import FULL_DISK
from backends.params import read
from backends.runtime.disk import write_json

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
TRASH_SECONDS = 86_400.0
FILE_BYTES = 4_000_000  # of one how.json; more is not read
MOST_UNDOS = 100
EXAMPLE = Path(__file__).resolve().parents[2] / "assets/datasets/werkbank-assistant.jsonl"


@dataclass(frozen=True)
class How:
    """How a dataset is read and repaired: plain JSON, as `Dataset.as_dict` gives it.

    validation: id of the set that it is validated with; "" for a share of its own rows.
    """

    reading: dict[str, Any] = field(default_factory=dict)
    mapping: dict[str, Any] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()
    validation: str = ""

    def as_params(self) -> dict[str, Any]:
        """As the doctor and the training take it."""
        return {"reading": self.reading, "mapping": self.mapping, "steps": list(self.steps)}


@dataclass(frozen=True)
class Kept:
    """One dataset. `path` is absolute; `own`: the file is ours and goes with it.

    before: how it was, the oldest first, for undo. said: what the doctor last said of it, by kind.
    hub: which version and part of which dataset of the hub it is; "" for all others.
    """

    id: str
    name: str
    path: str
    own: bool
    added: float  # seconds since 1970, to be shown and sorted by
    how: How = How()
    before: tuple[How, ...] = ()
    said: dict[str, Any] = field(default_factory=dict)
    hub: str = ""


class Datasets:
    """All of them, in HOME/datasets. Nothing is kept in memory: two pages see the same."""

    def __init__(self, home: Path, allowed: Callable[[], Sequence[Path]] = tuple) -> None:
        self.folder, self.allowed = home / "datasets", allowed
        self.trash = self.folder / ".trash"

    # Adding

    def take(self, file: Path, uploads: Path, name: str = "") -> Kept:
        """An upload, moved here. Raises Refused where it lies elsewhere or the disk is full."""
        source = adding.uploaded(file, uploads)
        wanted = adding.clean_name(name or source.name)
        with self.staged() as staged:
            shutil.move(source, staged / "file" / wanted)
            return self.keep(wanted, staged)

    def copy(self, file: Path) -> Kept:
        """One that comes with Werkbank, copied so that it may be changed and deleted."""
        with self.staged() as staged:
            shutil.copyfile(file, staged / "file" / file.name)
            return self.keep(file.name, staged)

    def point(self, text: str) -> Kept:
        """A file or folder of this computer that lies in an allowed folder; it is not copied."""
        allowed = [folder.resolve() for folder in self.allowed()]
        try:
            real = Path(text.strip()).expanduser().resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise Refused(
                f"There is no file {text.strip()[:200]!r} on this computer.",
                "Check how it is written.",
            ) from error
        if not any(real.is_relative_to(folder) for folder in allowed):
            known = ", ".join(map(str, allowed)) or "none yet"
            raise Refused(
                f"{real} is not in an allowed folder (allowed: {known}).",
                "Allow its folder under Settings, or drop the file here.",
            )
        with self.staged() as staged:
            return self.keep(real.name, staged, real)

    def lay_out(self, name: str, hub: str, lay: Callable[[Path], Path]) -> Kept:
        """One that came from the hub, called `name`; the one of the same version and part where it
        is here already. `lay` puts its files into a folder and says which path is to be read."""
        if kept := self.of_hub(hub):
            return kept
        with self.staged() as staged:
            inner = lay(staged / "file").relative_to(staged)
            return self.keep(name, staged, hub=hub, inner=inner.as_posix())

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder in which one is made, with a folder "file" in it; gone at the end, unless `keep`
        took it. Raises Refused for what the disk refuses meanwhile."""
        staged = self.folder / f".adding-{secrets.token_hex(6)}"
        try:
            (staged / "file").mkdir(parents=True, mode=0o700)
            yield staged
        except OSError as error:
            raise self._sentence(error) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def keep(
        self, name: str, staged: Path, path: Path | None = None, *, hub: str = "", inner: str = ""
    ) -> Kept:
        """What was made there is a dataset from now on: its file of this name, or the one at
        `path`, which is not ours; of one from the `hub` what is called `inner` in there."""
        slug = re.sub(r"[^a-z0-9]+", "-", Path(name).stem.lower()).strip("-")[:40] or "data"
        id = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"
        place = self.folder / id
        own = path is None and not hub
        path = path or place / (inner or f"file/{name}")
        kept = Kept(id, name, str(path), own, time.time(), hub=hub)
        try:
            write_json(staged / "how.json", asdict(kept), durable=True)
            os.replace(staged, place)
        except OSError as error:
            raise self._sentence(error) from error
        return kept

    # Looking

    def all(self) -> list[Kept]:
        """The newest first; a folder whose how.json cannot be read is passed over."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                with contextlib.suppress(Refused):
                    if ID.fullmatch(entry.name):
                        found.append(self.get(entry.name))
        return sorted(found, key=lambda kept: -kept.added)

    def get(self, id: str) -> Kept:
        """Raises Refused for what is not there."""
        return self._read(self._place(id))

    def _read(self, place: Path) -> Kept:
        file = place / "how.json"
        try:
            if file.stat().st_size > FILE_BYTES:
                raise ValueError("too large")
            data = json.loads(file.read_text("utf-8"))
            return read(Kept, data)
        except (OSError, ValueError) as error:
            raise Refused("This dataset is not there any more.", "Choose another one.") from error

    def like(self, file: Path) -> Kept | None:
        """The newest whose own file is a copy of `file`, whatever was repaired; None for none."""
        said = file.read_bytes()
        for kept in self.all():
            path = Path(kept.path)
            with contextlib.suppress(OSError):
                if kept.own and path.stat().st_size == len(said) and path.read_bytes() == said:
                    return kept
        return None

    def of_hub(self, hub: str) -> Kept | None:
        """The newest that is this version and part of a dataset of the hub; None for none."""
        return next((k for k in self.all() if k.hub == hub and _whole(Path(k.path))), None)

    def validation(self, kept: Kept) -> dict[str, Any]:
        """The set that it is validated with, as the doctor takes it; {} where it is a share of its
        own rows. Raises Refused where that set is gone."""
        if not kept.how.validation:
            return {}
        try:
            other = self.get(kept.how.validation)
        except Refused as refused:
            raise Refused(
                f"The set that {kept.name} is validated with is not there any more.",
                'Choose another one under "Validate with".',
            ) from refused
        return {"path": other.path, **self.allowed_for(other), **other.how.as_params()}

    def allowed_for(self, kept: Kept) -> dict[str, Any]:
        """The folders that its file must lie in, where it is not ours."""
        if kept.own:
            return {}
        folders = source.places_of(Path(kept.path)) if kept.hub else self.allowed()
        return {"allowed": [str(folder) for folder in folders]}

    # Changing

    def change(self, id: str, **values: Any) -> Kept:
        """Read, mapped or repaired otherwise; what was said of its rows no longer counts."""
        kept = self.get(id)
        how = replace(kept.how, **values)
        if how == kept.how:
            return kept
        before = (*kept.before, kept.how)[-MOST_UNDOS:]
        return self._replace(replace(kept, how=how, before=before, said={}))

    def undo(self, id: str) -> Kept:
        """As it was before the last change; itself where there was none."""
        kept = self.get(id)
        if not kept.before:
            return kept
        return self._replace(replace(kept, how=kept.before[-1], before=kept.before[:-1], said={}))

    def remember(self, id: str, how: How, **said: Any) -> None:
        """What the doctor said of it; nothing where it is another by now, or gone."""
        with contextlib.suppress(Refused):
            kept = self.get(id)
            if kept.how == how:
                self._replace(replace(kept, said=kept.said | said))

    def delete(self, id: str) -> Kept:
        """Into the trash, from where `restore` brings it back within a day; asked twice, once."""
        place = self._place(id)
        if not place.exists():
            return self._read(self.trash / id)
        try:
            kept = self._read(place)
            self.trash.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._empty_trash()
            os.replace(place, self.trash / id)
            os.utime(self.trash / id)
            return kept
        except FileNotFoundError as error:
            raise Refused("This dataset is not there any more.", "Choose another one.") from error
        except OSError as error:
            raise self._sentence(error) from error

    def restore(self, id: str) -> Kept:
        place = self._place(id)
        try:
            os.replace(self.trash / id, place)
        except OSError as error:
            raise Refused("It cannot be brought back.", "Drop the file here again.") from error
        return self.get(id)

    def _empty_trash(self) -> None:
        for entry in os.scandir(self.trash):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > TRASH_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)

    def _replace(self, kept: Kept) -> Kept:
        try:
            write_json(self._place(kept.id) / "how.json", asdict(kept), durable=True)
        except OSError as error:
            raise self._sentence(error) from error
        return kept

    def _place(self, id: str) -> Path:
        if not ID.fullmatch(id):
            raise Refused("This dataset is not there any more.", "Choose another one.")
        return self.folder / id

    def _sentence(self, error: OSError) -> Refused:
        if error.errno in FULL_DISK:
            return Refused(
                f"The disk of {self.folder} is full.", "Free some space, then try again."
            )
        return Refused(
            f"{self.folder} could not be written ({error.strerror}).", "Check who may write there."
        )


def _whole(path: Path) -> bool:
    """Whether all of it is there: its files may be links into a cache that was cleared."""
    return path.exists() and all(
        Path(folder, name).exists() for folder, _, names in os.walk(path) for name in names
    )
