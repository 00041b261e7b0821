"""Clients' schemas ask for the same in the keywords that are held."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import jsonschema
import pytest

from pumice.serve.schemas import MOST_CHOICES, held
from tests.runtime.serve.running import Running

SEVERAL: dict[str, Any] = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}


def test_formats_that_nobody_defines_are_notes() -> None:
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "entity_id"},
            "day": {"type": "string", "format": "date"},
            "what": {"const": {"format": "RGB"}},
            "all": {"type": "array", "items": [{"type": "string", "format": "x"}], "format": "RGB"},
        },
    }
    properties = held(schema)["properties"]
    assert properties == {
        "format": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "what": {"const": {"format": "RGB"}},
        "all": {"type": "array", "items": [{"type": "string"}]},
    }
    for untouched in (5, "{}", True, {"format": 5}):
        assert held(untouched) == untouched


@pytest.mark.parametrize("sizes", [{}, {"minItems": 1}, {"maxItems": 2}, {"minItems": 2, "maxItems": 9}])
def test_sets_of_choices(sizes: dict[str, int]) -> None:
    """What the written-out sets accept is unique; and of each set that the schema accepts, one order."""
    schema = SEVERAL | sizes
    written = jsonschema.Draft202012Validator(held(schema))
    asked = jsonschema.Draft202012Validator(schema)
    lists = [list(choices) for size in range(4) for choices in product("abc", repeat=size)]
    accepted = [choices for choices in lists if written.is_valid(choices)]
    assert all(asked.is_valid(choices) for choices in accepted)
    assert sorted(accepted) == sorted(
        [choices for choices in lists if asked.is_valid(choices) and choices == sorted(choices)]
    )


def test_other_unique_items_are_refused_by_name(server: Running) -> None:
    assert "uniqueItems" not in held(SEVERAL | {"uniqueItems": False})
    many = {**SEVERAL, "items": {"enum": list(range(MOST_CHOICES + 1))}}
    for schema in (many, {"type": "array", "uniqueItems": True}, {"uniqueItems": True}):
        answer = server.chat("x", json_schema=schema)
        assert (answer.status, answer.error["code"]) == (400, "unsupported_value")
        assert "uniqueItems" in answer.error["message"]
    chosen = json.loads(server.chat("x", json_schema=SEVERAL, max_tokens=900).text)
    jsonschema.validate(chosen, SEVERAL)
