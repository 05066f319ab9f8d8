"""The starter models that are measured, by the names that the API knows them by."""

from __future__ import annotations

from backends.base import Refused
from backends.models import library
from backends.models.library import Listed
from benchmarks.measure import CannotRun

GGUF = "smollm2-135m-instruct"
SAFETENSORS = "smollm2-135m-instruct-safetensors"
# Answered without chance, it goes on past every limit that is asked for here.
STORY = "Write a long story about a lighthouse keeper."


def listed(name: str) -> Listed:
    """Raises CannotRun where it is not on this machine."""
    try:
        found = library.find_model("chat", name)
    except Refused as refused:
        raise CannotRun(f"{refused.message} `python launch.py` fetches it.") from refused
    if found.problem:
        raise CannotRun(found.problem)
    return found
