"""What the documentation shows is run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend, ModelRef, Refused
from backends.events import Done, Progress, Text
from backends.params import read, schema

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def shout() -> type[Backend]:
    spec = importlib.util.spec_from_file_location("shout", DOCS / "examples" / "shout.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["shout"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found: Any = module
    return found.Shout  # type: ignore[no-any-return]


def test_the_page_shows_the_file_that_is_run() -> None:
    page = (DOCS / "adding-a-backend.md").read_text("utf-8")
    assert (DOCS / "examples" / "shout.py").read_text("utf-8") in page


def test_the_example_backend_keeps_the_contract(shout: type[Backend]) -> None:
    backend, said = shout(), []
    backend.report = said.append  # type: ignore[method-assign, assignment]
    backend.load(ModelRef.parse("none:"), read(shout.card.load_options, {"marks": 2}))
    params = read(shout.card.params, {"messages": [{"role": "user", "content": "hello there"}]})
    events = list(backend.run(params))
    assert "".join(e.delta for e in events if isinstance(e, Text)) == "HELLO THERE!!"
    assert isinstance(events[-1], Done) and isinstance(said[0], Progress)
    assert schema(shout.card.load_options)["properties"]["marks"]["maximum"] == 10
    quiet = read(shout.card.params, {"messages": [{"role": "user", "content": "whisper"}]})
    with pytest.raises(Refused, match="cannot whisper. Ask it something loud."):
        list(backend.run(quiet))
    backend.unload()


def test_every_local_link_in_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
