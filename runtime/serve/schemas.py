"""Clients' JSON schemas, in the keywords that are held here.

Enters: a schema as a client has it. Leaves: one that asks for the same:

1. a `format` that JSON Schema does not define is a note to its readers (Home Assistant's `RGB`, `entity_id`), and goes;
2. `uniqueItems` over a few choices becomes the sets of them, each written in the choices' order:

    {"items": {"enum": ["a", "b"]}, "uniqueItems": true}   →   [] | ["a"] | ["b"] | ["a", "b"]
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from pumice.generation.json_schema import FORMATS

MOST_CHOICES = 6
"""Whose sets are written out: 64 of them."""

_VALUES = ("const", "enum", "default", "examples")
"""Keywords with values in them, not schemas."""


def held(schema: Any) -> Any:
    """The schema with its subschemas; what is no schema at all stays as it is."""
    if isinstance(schema, list):
        return [held(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        keyword: value if keyword in _VALUES else held(value)
        for keyword, value in schema.items()
        if not (keyword == "format" and isinstance(value, str) and value not in FORMATS)
    }
    return _sets(kept)


def _sets(schema: dict[str, Any]) -> dict[str, Any]:
    unique, items = schema.get("uniqueItems"), schema.get("items")
    if unique is False:
        return {keyword: value for keyword, value in schema.items() if keyword != "uniqueItems"}
    choices = items.get("enum") if isinstance(items, dict) else None
    if unique is not True or schema.get("type") != "array" or not isinstance(choices, list):
        return schema
    if len(choices) > MOST_CHOICES:
        return schema
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(choices))
    sets = [
        {
            "type": "array",
            "prefixItems": [{"const": choice} for choice in chosen],
            "items": False,
            "minItems": len(chosen),
        }
        for size in range(least, min(most, len(choices)) + 1)
        for chosen in combinations(choices, size)
    ]
    return {"anyOf": sets}
