"""A stand-in for Gradio's tunnel, put where Gradio looks for its program. Nothing of the user's."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from pathlib import Path

import psutil

STAND_IN = Path(__file__).parent / "webui" / "demo" / "frpc_stand_in.py"


def put_program(hf_home: Path, trouble: str = "") -> Path:
    """frpc below a hub folder of its own, where `gradio.tunneling.BINARY_PATH` will look."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"frpc_{platform.system().lower()}_{machine.lower()}_v0.3"
    file = hf_home / "gradio" / "frpc" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_program(file, trouble)
    return file


def write_program(file: Path, trouble: str = "") -> None:
    file.write_text(
        f"#!/bin/sh\nWERKBANK_TEST_TUNNEL={trouble} "
        f'exec {shlex.quote(sys.executable)} {shlex.quote(str(STAND_IN))} "$@"\n',
        "utf-8",
    )
    file.chmod(0o755)


def environment(hf_home: Path) -> dict[str, str]:
    """For a server whose tunnels end in the stand-in."""
    return {"HF_HOME": str(hf_home), "GRADIO_SHARE_SERVER_ADDRESS": "127.0.0.1:7000"} | {
        k: v for k, v in os.environ.items() if k.startswith("WERKBANK_TEST_")
    }


def stand_ins(of: int | None = None) -> list[psutil.Process]:
    """The tunnels that a process (this one) has started and that still run."""
    found = []
    for child in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "frpc_stand_in" in " ".join(child.cmdline()):
                found.append(child)
    return found
