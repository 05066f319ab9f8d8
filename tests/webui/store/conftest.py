"""A store with a clock of its own, for all tests of what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from webui.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Its clock goes on by a second at each look, so that no two times are equal."""
    seconds = itertools.count(1_000_001.0)
    store = Store(tmp_path / "Ünï côde" / "werkbank.db", lambda: next(seconds))
    yield store
    store.close()
