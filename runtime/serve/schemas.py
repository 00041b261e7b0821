"""Clients' JSON schemas, in the keywords that are held here.

Enters: a schema as a client has it. Leaves: one whose answers the client's own schema accepts:

1. a `format` that JSON Schema does not define is a note to its readers (Home Assistant's `RGB`, `entity_id`), and goes;
2. `uniqueItems` over a few choices becomes the sets of them, each written in the choices' order:

    {"items": {"enum": ["a", "b"]}, "uniqueItems": true}   →   [] | ["a"] | ["b"] | ["a", "b"]

3. an object that names its properties, and says nothing of others, has no others, as llama.cpp and Ollama take it:
   small models would invent some until they are cut off;
4. OpenAPI's `nullable` is a type beside the others:

    {"type": "string", "nullable": true}   →   {"type": ["string", "null"]}
"""

from __future__ import annotations

from collections.abc import Sequence
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
    try:
        return _held(schema, closed="allOf" not in _keywords(schema))
    except RecursionError:
        return schema  # which is refused where it is read


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
    return _nullable(_sets(_closed(kept) if closed else kept))


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


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    wanted = schema.get("nullable")
    if not isinstance(wanted, bool):
        return schema
    kept = {keyword: value for keyword, value in schema.items() if keyword != "nullable"}
    if not wanted:
        return kept
    if isinstance(kept.get("type"), str) and not kept.keys() & {"const", "anyOf", "oneOf", "allOf", "$ref"}:
        choices = {"enum": [*kept["enum"], None]} if isinstance(kept.get("enum"), list) else {}
        return kept | {"type": [kept["type"], "null"]} | choices
    return {"anyOf": [kept, {"type": "null"}]}


def _sets(schema: dict[str, Any]) -> dict[str, Any]:
    unique, items = schema.get("uniqueItems"), schema.get("items")
    if unique is False:
        return {keyword: value for keyword, value in schema.items() if keyword != "uniqueItems"}
    choices = items.get("enum") if isinstance(items, dict) else None
    if unique is not True or schema.get("type") != "array" or not isinstance(choices, list):
        return schema
    if len(choices) > MOST_CHOICES or "anyOf" in schema:
        return schema
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(choices))
    if type(least) is not int or type(most) is not int:
        return schema
    sets: list[Any] = [
        _list_of(chosen)
        for size in range(max(least, 0), min(most, len(choices)) + 1)
        for chosen in combinations(choices, size)
    ]
    spent = ("type", "items", "uniqueItems", "minItems", "maxItems")
    kept = {keyword: value for keyword, value in schema.items() if keyword not in spent}
    return kept | {"anyOf": sets or [False]}


def _list_of(chosen: Sequence[Any]) -> dict[str, Any]:
    """The schema of just this list."""
    if not chosen:
        return {"type": "array", "maxItems": 0}
    items = [{"const": choice} for choice in chosen]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
