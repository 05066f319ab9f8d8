"""Saved settings by name: the ones in assets/presets.toml, and the user's own in HOME/presets.

One of the user's is a JSON file, `HOME/presets/chat/NAME.json`: {"task", "name", "settings"}. It
can be copied to another machine as it is.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from backends.base import Refused

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "presets.toml"
NAME_LENGTH = 60
FILE_BYTES = 200_000


@dataclass(frozen=True)
class Preset:
    """`own`: the user's, so it can be replaced and deleted."""

    name: str
    settings: dict[str, Any]
    own: bool = False


class Presets:
    """The presets of one task. Files that cannot be read are passed over."""

    def __init__(self, home: Path, task: str) -> None:
        self.folder, self.task = home / "presets" / task, task

    def all(self) -> list[Preset]:
        """The shipped ones, then the user's by name."""
        rows = tomllib.loads(SHIPPED.read_text("utf-8"))["preset"]
        shipped = [Preset(r["name"], r["settings"]) for r in rows if r["task"] == self.task]
        own = [p for path in sorted(self.folder.glob("*.json")) if (p := _read(path))]
        return [*shipped, *sorted(own, key=lambda p: p.name.casefold())]

    def get(self, name: str) -> Preset:
        """Raises Refused where there is none of this name."""
        for preset in self.all():
            if preset.name == name:
                return preset
        raise Refused(f"There is no preset {name[:60]!r} any more.", "Choose another one.")

    def save(self, name: str, settings: dict[str, Any]) -> Preset:
        """Keep settings under a name; one of the user's with that name is replaced.

        Raises Refused for a name that is empty, too long or shipped, and where the disk refuses.
        """
        name = " ".join(name.split())
        if not name or len(name) > NAME_LENGTH:
            raise Refused("The preset has no name, or a very long one.",
                          f"Give it a name of 1 to {NAME_LENGTH} characters.")  # fmt: skip
        if any(p.name == name and not p.own for p in self.all()):
            raise Refused(f"{name!r} comes with Werkbank.", "Give yours another name.")
        made = {"task": self.task, "name": name, "settings": settings}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self._path(name)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(made, ensure_ascii=False, indent=1), "utf-8")
            part.replace(path)
        except OSError as error:
            raise Refused(f"The preset was not saved ({error.strerror}).",
                          f"Check the folder {self.folder}.") from error  # fmt: skip
        return Preset(name, settings, own=True)

    def delete(self, name: str) -> None:
        """Raises Refused for a shipped one."""
        if not self.get(name).own:
            raise Refused(f"{name!r} comes with Werkbank.", "Only your own can be deleted.")
        for path in self.folder.glob("*.json"):
            if (preset := _read(path)) and preset.name == name:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        """A file name that every system takes, and no two presets share."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        return self.folder / f"{plain or 'preset'}-{sha256(name.encode()).hexdigest()[:8]}.json"


def _read(path: Path) -> Preset | None:
    try:
        if path.stat().st_size > FILE_BYTES:
            return None
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    name, settings = data.get("name"), data.get("settings")
    if not isinstance(name, str) or not isinstance(settings, dict) or not name.strip():
        return None
    return Preset(" ".join(name.split())[:NAME_LENGTH], settings, own=True)
