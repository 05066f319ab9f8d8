from __future__ import annotations

import pytest

from backends.events import KINDS, Done, Failed, Item, Text, from_json, to_json


@pytest.mark.parametrize("event", [Text("a\n"), Item("box", [1, 2]), Failed("a.", "b."), Done()])
def test_an_event_survives_the_pipe(event: object) -> None:
    assert from_json(to_json(event)) == event  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [{}, {"event": "Nope"}, {"event": "Text"}, {"event": "Text", "delta": "a", "evil": 1}]
)
def test_what_is_not_an_event_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="event"):
        from_json(data)


def test_an_item_is_capped() -> None:
    with pytest.raises(ValueError, match="Write it to a file"):
        Item("segment", "x" * 70_000)


def test_the_vocabulary_has_eight_words() -> None:
    assert len(KINDS) == 8
