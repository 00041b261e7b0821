"""Clients' JSON schemas, in the keywords that are held here.

Enters: a schema as a client has it. Leaves: one whose answers the client's own schema accepts:

1. a `format` that JSON Schema does not define is a note to its readers (Home Assistant's `RGB`, `entity_id`), and goes;
2. `uniqueItems` over a few choices becomes the sets of them, each written in the choices' order:

    {"items": {"enum": ["a", "b"]}, "uniqueItems": true}   →   [] | ["a"] | ["b"] | ["a", "b"]

3. an object that names its properties, and says nothing of others, has no others, as llama.cpp and Ollama take it:
   small models would invent some until they are cut off.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from pumice.generation.json_schema import FORMATS

MOST_CHOICES = 6
"""Whose sets are written out: 64 of them."""

_VALUES = ("const", "enum", "default", "examples")
"""Keywords with values in them, not schemas."""


_NAMES = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords with schemas by names."""

_OF_OTHERS = ("additionalProperties", "patternProperties", "anyOf", "oneOf", "$ref")
"""Keywords that say something of other properties."""


def held(schema: Any) -> Any:
    """The schema with its subschemas; what is no schema at all stays as it is."""
    return _held(schema, closed="allOf" not in _keywords(schema))


def _held(schema: Any, *, closed: bool) -> Any:
    if isinstance(schema, list):
        return [_held(each, closed=closed) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _VALUES:
            kept[keyword] = value
        elif keyword in _NAMES and isinstance(value, dict):
            kept[keyword] = {name: _held(each, closed=closed) for name, each in value.items()}
        elif not (keyword == "format" and isinstance(value, str) and value not in FORMATS):
            kept[keyword] = _held(value, closed=closed)
    return _sets(_closed(kept) if closed else kept)


def _keywords(schema: Any) -> set[str]:
    """All keys in it, of properties too."""
    below = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return {
        *(schema if isinstance(schema, dict) else ()),
        *(key for each in below for key in _keywords(each)),
    }


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    names, needed = schema.get("properties"), schema.get("required", [])
    if not isinstance(names, dict) or any(keyword in schema for keyword in _OF_OTHERS):
        return schema
    if not isinstance(needed, list) or not names.keys() >= set(map(str, needed)):
        return schema
    least = schema.get("minProperties", 0)
    if not isinstance(least, int) or least > len(names):
        return schema
    return schema | {"additionalProperties": False}


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
