"""Schemas that must not reach llama.cpp."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Refused
from backends.chat.json_answer import SCHEMA_ITEMS, with_style

ARRAY: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
MANY = {"type": "object", "properties": {f"p{i}": {**ARRAY, "minItems": 20_000} for i in range(6)}}


@pytest.mark.parametrize(
    "schema",
    [
        {**ARRAY, "minItems": 10**9},
        {**ARRAY, "maxItems": 1e9},
        {"type": "object", "properties": {"a": {"anyOf": [{**ARRAY, "maxItems": 10**6}]}}},
        MANY,
    ],
)
def test_arrays_that_would_fill_the_memory_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="100,000 elements"):
        with_style(schema)


def test_a_property_may_have_the_name_of_a_count() -> None:
    counted = {**ARRAY, "minItems": 2, "maxItems": SCHEMA_ITEMS // 2}
    schema = {"type": "object", "properties": {"minItems": counted}}
    assert with_style(schema)["properties"]["minItems"] == counted
