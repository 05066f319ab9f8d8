"""Who may import whom: backends <- webui <- tabs. Read from the disk, proved in a process each."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from backends import BACKENDS

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


def imported(file: Path, root: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands and however it is written;
    of `from a import b` both a and a.b, since b may be a module."""
    package = file.relative_to(root).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            outer = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*outer, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def is_adapter(file: Path) -> bool:
    """Whether it defines a backend."""
    classes = [
        n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.ClassDef)
    ]
    return any(isinstance(b, ast.Name) and b.id == "Backend" for c in classes for b in c.bases)


def crossings(root: Path) -> list[str]:
    """Tabs that import a tab, adapters that import an adapter: "importer -> imported"."""
    files = {".".join(f.relative_to(root).with_suffix("").parts): f
             for folder in ("tabs", "backends") for f in sorted((root / folder).rglob("*.py"))
             if f.name != "__init__.py"}  # fmt: skip
    tabs = {name for name in files if name.startswith("tabs.")}
    adapters = {name for name, file in files.items() if name not in tabs and is_adapter(file)}
    return [
        f"{name} -> {other}"
        for group in (tabs, adapters)
        for name in sorted(group)
        for other in sorted(imported(files[name], root) & (group - {name}))
    ]


def test_no_tab_imports_another_and_no_adapter_another() -> None:
    assert crossings(ROOT) == []
    assert {b.__module__ for b in BACKENDS.values()} == {
        ".".join(f.relative_to(ROOT).with_suffix("").parts)
        for f in (ROOT / "backends").rglob("*.py")
        if is_adapter(f)
    }  # so that none of them was overlooked


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("tabs", "import tabs.two"),
        ("tabs", "from tabs import two"),
        ("tabs", "from tabs.two import build"),
        ("tabs", "from . import two"),
        ("tabs", "from .two import build"),
        ("tabs", "def f():\n    import tabs.two as other"),
        ("backends/chat", "import backends.chat.two"),
        ("backends/chat", "from backends.chat import two"),
        ("backends/chat", "from backends.chat.two import helper"),
        ("backends/chat", "from .two import helper"),
        ("backends/chat", "def load():\n    from . import two"),
        ("backends/image", "from ..chat.two import helper"),
    ],
)
def test_whoever_imports_a_neighbour_is_found(tmp_path: Path, folder: str, line: str) -> None:
    other = "tabs" if folder == "tabs" else "backends/chat"
    for place in (folder, other):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "one.py").write_text(f"{line}\nclass One(Backend): pass\n")
    (tmp_path / other / "two.py").write_text("class Two(Backend): pass\n")
    (tmp_path / other / "shared.py").write_text("def helper(): pass\n")
    names = [
        f"{place.replace('/', '.')}.{name}" for place, name in ((folder, "one"), (other, "two"))
    ]
    assert crossings(tmp_path) == [" -> ".join(names)]


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
