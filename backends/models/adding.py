"""Files that the user drags into the page become a model in HOME/models.

What was dragged lies in the page's folder for uploads, under names that a browser gave. It is put
together in a hidden folder beside the models, checked by its headers, and then moved to its place.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from backends.base import ModelRef, Refused
from backends.models import library
from backends.models.check import PICKLED, check_path
from backends.models.gguf_copy import FULL_DISK
from backends.models.repo import RESERVED, SMALL

WEIGHTS = (".safetensors", ".gguf")
MOST = 500  # files in one model
NAME_LENGTH = 80


def add_uploads(files: Sequence[Path], uploads: Path, name: str = "") -> ModelRef:
    """Move uploaded files into HOME/models as one model; how it is named from then on.

    files    one .safetensors or .gguf, or all files of a model's folder (config and tokenizer too)
    uploads  the folder into which Gradio puts what browsers send: each file must lie there, links
             followed
    name     of the folder, where there are several files; else it follows from the weights' name

    Raises Refused, two sentences, where they are no model that could be loaded; then nothing was
    added. Takes seconds where uploads lie on another disk: call it in a thread.
    """
    if not files:
        raise Refused("No file was given.", "Drag a .safetensors or .gguf file here.")
    if len(files) > MOST:
        raise Refused(
            f"These are {len(files)} files, too many for one model.", "Drag only its own."
        )
    sources = [uploaded(file, uploads) for file in files]
    weights = [s for s in sources if suffix_of(s.name) in WEIGHTS]
    pickled = [s for s in sources if suffix_of(s.name) in PICKLED]
    if pickled and not weights:
        raise Refused(
            f"{pickled[0].name} is in an old form that could run code when it is opened.",
            "Convert it to safetensors first, or take a safetensors or GGUF version of the model.",
        )
    if not weights:
        raise Refused(
            "There are no weights among these files.", "Drag .safetensors or .gguf files."
        )
    useful = [s for s in sources if s in weights or suffix_of(s.name) in SMALL]
    models = library.models_folder()
    staged = models / f".adding-{secrets.token_hex(6)}"
    try:
        staged.mkdir(parents=True)
        if len(useful) == 1:
            target = clean_name(weights[0].name)
            shutil.move(weights[0], staged / target)
            made = staged / target
        else:
            target = clean_name(name or PurePosixPath(weights[0].name).stem)
            made = staged / target
            made.mkdir()
            for source in useful:
                shutil.move(source, _free(made, clean_name(source.name)))
        check_path(made)
        return ModelRef("folder", library.name_id(move_in(made, target).name))
    except OSError as error:
        raise disk_sentence(error, models) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def move_in(made: Path, name: str) -> Path:
    """A checked file or folder takes its place in HOME/models, beside one of the same name."""
    while True:
        place = _free(library.models_folder(), name)
        try:
            if made.is_dir():
                os.rename(made, place)  # refuses a folder that another put there just now
            else:
                _rename_file(made, place)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            continue
        return place


def _rename_file(made: Path, place: Path) -> None:
    """Raises FileExistsError where another has put one there since: nothing is written over."""
    try:
        os.link(made, place)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        os.replace(made, place)
    else:
        made.unlink()


def clean_name(name: str) -> str:
    """A name as a browser gave it, made fit for a file on every system; its ending in small."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    # Category C: control characters, halves of characters, and those that turn the direction.
    name = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in name)
    name = re.sub(r'[<>:"|?*]', "-", " ".join(name.split())).strip(". ")
    ending = suffix_of(name) if suffix_of(name) in (*WEIGHTS, *SMALL) else ""
    stem = (name[: -len(ending)] if ending else name)[:NAME_LENGTH].rstrip(". ")
    if not stem or RESERVED.fullmatch(stem):
        stem = f"model-{stem}" if stem else "model"
    return stem + ending


def suffix_of(name: str) -> str:
    return PurePosixPath(name.lower()).suffix


def disk_sentence(error: OSError, folder: Path) -> Refused:
    """A write that did not work, said to people."""
    if error.errno in FULL_DISK:
        return Refused(f"The disk of {folder} is full.", "Free some space, then add it again.")
    return Refused(
        f"The model could not be put into {folder} ({error.strerror}).",
        "Check that the folder can be written.",
    )


def uploaded(file: Path, uploads: Path) -> Path:
    """The file behind a path that came from a browser. Raises Refused for one that is elsewhere."""
    try:
        real = file.resolve(strict=True)
        inside = real.is_relative_to(uploads.resolve()) and stat.S_ISREG(real.lstat().st_mode)
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise Refused("The uploaded file is not there any more.", "Drag it here again.")
    return real


def _free(folder: Path, name: str) -> Path:
    """A path in `folder` that nothing has yet: the name, or the name with a number."""
    path, number = folder / name, 2
    stem, ending = (name[: -len(e)], e) if (e := suffix_of(name)) in WEIGHTS else (name, "")
    while os.path.lexists(path):
        path = folder / f"{stem}-{number}{ending}"
        number += 1
    return path
