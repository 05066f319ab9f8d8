"""What stands in the index of the pictures: its table, and a row of it as a value.

The PNGs are the truth. Whatever is here can be made again from them, so nothing else may be here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Each entry brings a file from its place in this list to the next. Never change one that was
# released: append.
MIGRATIONS = (
    """
    CREATE TABLE pictures (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created REAL NOT NULL,
        prompt TEXT NOT NULL, model TEXT NOT NULL, model_title TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL, seed INTEGER,
        favourite INTEGER NOT NULL DEFAULT 0, deleted REAL
    ) STRICT;
    CREATE INDEX pictures_listed ON pictures (id DESC) WHERE deleted IS NULL;
    CREATE INDEX pictures_of_model ON pictures (model, id DESC) WHERE deleted IS NULL;
    CREATE INDEX pictures_favourite ON pictures (id DESC)
        WHERE favourite = 1 AND deleted IS NULL;
    CREATE INDEX pictures_deleted ON pictures (deleted) WHERE deleted IS NOT NULL;

    CREATE VIRTUAL TABLE picture_words USING fts5 (
        prompt, content = 'pictures', content_rowid = 'number', prefix = '1 2 3',
        tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So Sk Mn'"
    );
    CREATE TRIGGER picture_words_added AFTER INSERT ON pictures BEGIN
        INSERT INTO picture_words (rowid, prompt) VALUES (new.number, new.prompt);
    END;
    CREATE TRIGGER picture_words_gone BEFORE DELETE ON pictures BEGIN
        INSERT INTO picture_words (picture_words, rowid, prompt)
            VALUES ('delete', old.number, old.prompt);
    END;
    """,
)
REBUILD = "INSERT INTO picture_words (picture_words) VALUES ('rebuild');"
LISTED = "id, created, prompt, model, model_title, width, height, seed, favourite"
ADD = (
    f"INSERT INTO pictures ({LISTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the gallery. `created` is in Unix seconds, `width` and `height` are in pixels.

    `model` is a reference, `seed` None where the recipe has none.
    """

    id: str
    created: float
    prompt: str = ""
    model: str = ""
    model_title: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    favourite: bool = False

    def as_json(self) -> dict[str, Any]:
        """As the browser has it."""
        return {**asdict(self), "thumb": f"/api/pictures/{self.id}/thumb"}


def picture_of(row: Sequence[Any]) -> Picture:
    """From a row of `LISTED`."""
    id, created, prompt, model, title, width, height, seed, favourite = row
    return Picture(id, created, prompt, model, title, width, height, seed, bool(favourite))


def row_of(picture: Picture) -> tuple[Any, ...]:
    """For `ADD`."""
    return (
        picture.id, picture.created, picture.prompt, picture.model, picture.model_title,
        picture.width, picture.height, picture.seed, int(picture.favourite),
    )  # fmt: skip


def from_recipe(
    id: str, created: float, size: tuple[int, int], said: Mapping[str, Any], favourite: bool
) -> Picture:
    """What the index keeps of a recipe, whatever is in that."""
    seed = said.get("seed")
    whole = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63
    return Picture(
        id, created, _text(said, "prompt", 20_000), _text(said, "model", 500),
        _text(said, "model_title", 200), *size, seed if whole else None, favourite,
    )  # fmt: skip


def _text(said: Mapping[str, Any], key: str, most: int) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        return ""
    return value[:most].replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
