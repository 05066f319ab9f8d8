"""What a figure was measured on: processor, memory, cards, versions."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from backends.card.gpu import Machine

PACKAGES = ("gradio", "torch", "transformers", "xllamacpp", "playwright")


def machine() -> dict[str, Any]:
    """The description that is kept with every run, as plain JSON. Sizes are in bytes."""
    cards = Machine().read().gpus
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "ram_bytes": psutil.virtual_memory().total,
        "gpus": [{"name": card.name, "total_bytes": card.total_bytes} for card in cards],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; elsewhere than on Linux only its kind is told."""
    if file.is_file():
        for line in file.read_text("utf-8", "replace").splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
