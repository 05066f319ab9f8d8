"""What the owner has settled for the whole page: one dataclass, kept as HOME/settings.json.

`bench.settings.value` is what holds now. A file that cannot be read is set aside, and `notice` says
so: the page starts with the usual settings.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from backends.base import Refused
from backends.params import Params, read, setting, to_dict

FILE_BYTES = 200_000
FOLDERS = 20


@dataclass(frozen=True)
class Settings(Params):
    """A folder is an absolute path, resolved when it was added; it may be away now (a drive)."""

    theme: Literal["system", "light", "dark"] = setting(
        "system", "Theme",
        choices=(("system", "As the system"), ("light", "Light"), ("dark", "Dark")),
    )  # fmt: skip
    reserve_gb: float | None = setting(
        None, "Memory kept free on each graphics card", min=0, max=64, step=0.5, unit="GB",
        help="For the desktop and other programs. Empty: chosen by itself, more where a screen "
        "hangs on the card.",
    )  # fmt: skip
    when_idle: Literal["park", "unload", "nothing"] = setting(
        "park", "A model on the graphics card that nobody uses",
        choices=(("park", "moves to RAM and is back in seconds"), ("unload", "is unloaded"),
                 ("nothing", "stays where it is")),
    )  # fmt: skip
    idle_minutes: int = setting(
        15, "Nobody uses it when this long has passed", min=1, max=240, unit="minutes",
        help="Counted from the end of its last answer. A training is never moved.",
    )  # fmt: skip
    folders: tuple[str, ...] = setting(
        (), "Folders with models", lines=3, hidden=True,
        help="Werkbank looks for models there, besides its own folder. Nothing is changed in them.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.folders) > FOLDERS:
            raise ValueError(f"These are {len(self.folders)} folders. {FOLDERS} can be kept.")
        for folder in self.folders:
            if not Path(folder).is_absolute() or "\0" in folder:
                raise ValueError(f"{folder[:80]!r} is no whole path. Write it from its beginning.")


class SettingsFile:
    """The settings and their file. `value` is replaced whole, so that a reader never sees half."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notice = ""  # two sentences where the file could not be read
        self.value = self._read()
        self.listeners: list[Callable[[Settings], None]] = []

    def change(self, **values: Any) -> Settings:
        """Keep some settings, plain JSON as a form gives it; the others stay.

        Raises Refused where one is wrong or the disk refuses: then nothing has changed.
        """
        try:
            changed = read(Settings, to_dict(self.value) | values)
        except ValueError as error:
            happened, _, mend = str(error).partition(". ")
            raise Refused(happened + ".", mend) from error
        self._write(changed)
        self.value = changed
        for listener in self.listeners:
            listener(changed)
        return changed

    def allow(self, text: str) -> Settings:
        """Add a folder that the owner typed. Raises Refused where it is none, or too wide."""
        folder = str(allowed_folder(text))
        own = self.path.parent.resolve() / "models"
        if Path(folder) in (own.parent, own) or own in Path(folder).parents:
            raise Refused(
                f"Werkbank's own models lie in {folder}.",
                "They are in the lists already. Name the folder where others lie.",
            )
        if folder in self.value.folders:
            raise Refused(f"{folder} is allowed already.", "Its models are in the list.")
        return self.change(folders=[*self.value.folders, folder])

    def forbid(self, folder: str) -> Settings:
        return self.change(folders=[f for f in self.value.folders if f != folder])

    def _read(self) -> Settings:
        try:
            if self.path.stat().st_size > FILE_BYTES:
                raise ValueError("it is too large")
            data = json.loads(self.path.read_text("utf-8"))
            if isinstance(data, dict):  # what a later version wrote besides is passed over
                known = {f.name for f in fields(Settings)}
                data = {key: value for key, value in data.items() if key in known}
            return read(Settings, data)
        except FileNotFoundError:
            return Settings()
        except OSError as error:  # nothing is wrong with the file itself: it stays where it is
            why = f"The settings cannot be read ({error.strerror})."
            self.notice = f"{why} The usual ones hold until {self.path} can be."
        except (ValueError, RecursionError):
            self.notice = self._set_aside()
        return Settings()

    def _set_aside(self) -> str:
        aside = self.path.with_name(f"settings-broken-{time.strftime('%Y%m%d-%H%M%S')}.json")
        said = "The settings could not be read, so that the usual ones hold."
        try:
            self.path.replace(aside)
        except OSError:
            return f"{said} The next change writes over {self.path.name}."
        return f"{said} The file lies beside as {aside.name}; set them again under the cog."

    def _write(self, settings: Settings) -> None:
        part = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                json.dump(to_dict(settings), file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except (OSError, UnicodeEncodeError) as error:
            why = getattr(error, "strerror", None) or "a name in them is no text"
            raise Refused(
                f"The settings were not saved ({why}).", f"Check the folder {self.path.parent}."
            ) from error


def allowed_folder(text: str) -> Path:
    """The folder that was typed, links followed. Raises Refused for what is none, and for the root
    of a disk or of the system, where a search for models would never end."""
    typed = text.strip().strip('"')
    if not typed:
        raise Refused("No folder was named.", "Type the whole path of one.")
    path = Path(os.path.expanduser(typed))  # a ~ of nobody's stays, and is no whole path
    if not path.is_absolute():
        example = r"D:\models" if sys.platform == "win32" else "/home/me/models"
        raise Refused(f"{typed[:80]!r} is no whole path.", f"Write it like {example}.")
    try:
        path = path.resolve(strict=True)
        is_folder = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # not there, a NUL in it, links in a ring
        raise Refused(f"There is no folder {typed[:200]}.", "Check how it is written.") from None
    if not is_folder:
        raise Refused(f"{path} is a file.", "Name the folder that it lies in.")
    if path == Path(path.anchor):
        raise Refused(f"{path} is a whole disk.", "Name the folder with the models.")
    return path
