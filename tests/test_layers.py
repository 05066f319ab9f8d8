"""Who may import whom: backends <- webui <- tabs. Read from the disk, proved in a process each."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "diffusers", "peft", "trl", "bitsandbytes", "accelerate",
         "whisper", "faster_whisper", "datasets", "xllamacpp"}  # fmt: skip
FORBIDDEN = {
    "backends": {"gradio", "webui", "tabs", "fastapi", *HEAVY},
    "webui": {"tabs", *HEAVY},
    "tabs": HEAVY,
}


def modules(folder: str) -> list[str]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files
            if f.name != "__init__.py"]  # fmt: skip


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_importing_all_of_a_folder_loads_nothing_forbidden(folder: str) -> None:
    names = modules(folder)
    assert names
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({FORBIDDEN[folder]!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_no_tab_imports_another_and_no_adapter_another() -> None:
    wrong = []
    for folder in ("tabs", *(f"backends/{t}" for t in ("chat", "image", "speech", "multimodal"))):
        for file in (ROOT / folder).glob("*.py"):
            package = folder.replace("/", ".")
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if file.name == "__init__.py" or not isinstance(node, ast.ImportFrom):
                    continue
                if folder == "tabs" and (node.module or "").startswith(package):
                    wrong.append(f"{file}: {node.module}")
                if (node.module or "").startswith("backends.") and "Backend" in [
                    a.name for a in node.names
                ]:
                    assert node.module == "backends.base", file
    assert wrong == []


def test_no_function_is_longer_than_a_screen_and_no_file_than_700_lines() -> None:
    long = []
    for folder in FORBIDDEN:
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text("utf-8")
            long += [str(file)] if text.count("\n") > 700 else []
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    long += [f"{file}:{node.name} {length}"] if length > 90 else []
    assert long == []
