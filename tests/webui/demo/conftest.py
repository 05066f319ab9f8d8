"""A demo without a page around it: the echo backend, and a tunnel that ends on this computer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gradio import networking, tunneling

from tests.tunnelled import put_program
from webui.app import settle_environment
from webui.bench import Bench
from webui.demo.offer import make_offer
from webui.demo.quota import Terms
from webui.demo.state import Offer

PHRASE = "river-candle-tiger-lemon-boat"


@pytest.fixture
def bench(home: Path) -> Bench:
    settle_environment(home / "werkbank-tmp")
    return Bench(home, spare=False)


@pytest.fixture
def offer(bench: Bench) -> Callable[..., Offer]:
    def make(settings: dict[str, Any] | None = None, **terms: int) -> Offer:
        made = make_offer(bench.find("echo"), {}, settings or {"temperature": 0.0}, phrase=PHRASE)
        return Offer(**{**vars(made), "terms": Terms(**terms)})

    return make


@pytest.fixture
def tunnel_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a stand-in for frpc, with a trouble or none, where Gradio looks for it."""
    if sys.platform == "win32":
        pytest.skip("the stand-in is a shell script")

    def put(trouble: str = "") -> Path:
        file = put_program(tmp_path / "hub", trouble)
        monkeypatch.setattr(tunneling, "BINARY_PATH", str(file))
        monkeypatch.setattr(tunneling, "BINARY_FOLDER", file.parent)
        monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:7000")
        return file

    return put
