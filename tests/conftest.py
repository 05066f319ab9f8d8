"""What several tests share: a home of their own, one server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import Served, serving

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


# Made once (20 s) and kept between runs, out of the way of the user's own.
os.environ["WERKBANK_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "werkbank")


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the home of whoever runs it. The name is hard on purpose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WERKBANK_HOME", str(tmp_path_factory.mktemp("Wörk bänk 你好")))
        yield


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder of this test's own, with a space and an umlaut in its name."""
    folder = tmp_path / "mein Zuhaüse"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that only look and talk. It keeps a warm spare like a user's."""
    with serving(tmp_path_factory.mktemp("geteilt") / "mein Zuhaüse") as served:
        yield served
