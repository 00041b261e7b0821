"""JSON schemas are checked before they are compiled: what would be ignored is refused, and so is what would take long.

Enters: a schema as JSON text. Leaves: the same schema, of which every keyword is known to have its effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from pumice.errors import UsageError

LARGEST_SCHEMA = 64 * 1024
"""Bytes of JSON."""

MOST_SUBSCHEMAS = 1_000
"""Compiling compares the properties of an object with each other: 2,000 take 0.4 s, 10,000 take 15 s."""

MOST_NAME_PATTERNS = 64
"""Patterns of property names exclude one another in pairs: 200 take 0.3 s, 2,000 minutes."""

LARGEST_MULTIPLE = 10_000
"""`multipleOf` becomes an automaton with a state for each remainder: 10,000 take 0.1 s, a million 8 s and 550 MB."""

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_OF_ONE = ("additionalProperties", "additionalItems", "items")
_OF_SEVERAL = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_ASSERTIONS = [
    "type",
    "enum",
    "const",
    "$ref",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
]
_ANNOTATIONS = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
]
_KNOWN = frozenset([*_OF_NAMES, *_OF_ONE, *_OF_SEVERAL, *_ASSERTIONS, *_ANNOTATIONS])
FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)


def checked_schema(text: str) -> dict[str, Any]:
    """The schema, decoded.

    Raises:
        UsageError: no JSON, no schema, too large, or with keywords that constrain nothing here.
    """
    if len(text.encode(errors="surrogatepass")) > LARGEST_SCHEMA:
        raise UsageError(
            f"the JSON schema has {len(text):,} characters, expected at most {LARGEST_SCHEMA:,} bytes"
        )
    try:
        schema = msgspec.json.decode(text.encode(), type=dict[str, Any] | bool)
        subschemas = dict(_subschemas({} if schema is True else schema, "#"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the JSON schema cannot be read: {str(error)[:200]}") from None
    if len(subschemas) > MOST_SUBSCHEMAS:
        raise UsageError(
            f"the JSON schema has {len(subschemas):,} subschemas, expected at most {MOST_SUBSCHEMAS:,}"
        )
    for place, subschema in subschemas.items():
        _check_keywords(place, subschema)
    _check_sizes([s for s in subschemas.values() if isinstance(s, dict)])
    return schema if isinstance(schema, dict) else {}


def _subschemas(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The schema and all that are in it, each with its JSON pointer."""
    yield place, schema
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        below = f"{place}/{keyword}"
        if keyword in _OF_NAMES and isinstance(value, dict):
            for name, subschema in value.items():
                yield from _subschemas(subschema, f"{below}/{name}")
        elif keyword in _OF_SEVERAL and isinstance(value, list):
            for i, subschema in enumerate(value):
                yield from _subschemas(subschema, f"{below}/{i}")
        elif keyword in _OF_ONE:
            yield from _subschemas(value, below)


def _check_keywords(place: str, schema: Any) -> None:
    if schema is False and place != "#":
        return  # "nothing else": additionalProperties, items
    if not isinstance(schema, (dict, bool)):
        raise UsageError(f"the JSON schema has {_short(schema)} at {_short(place)}, expected an object")
    if schema is False:
        raise UsageError("the JSON schema is `false`, which nothing satisfies")
    for keyword in schema if isinstance(schema, dict) else ():
        if keyword not in _KNOWN:
            raise UsageError(
                f"the JSON schema's keyword {_short(keyword)} at {_short(place)} is not supported: remove it; "
                "see docs/structured-output.md for what is"
            )
    if isinstance(schema, dict):
        _check_values(place, schema)


def _check_values(place: str, schema: dict[str, Any]) -> None:
    """Values that would be taken as if they were not there."""
    format_ = schema.get("format")
    if format_ is not None and format_ not in FORMATS:
        raise UsageError(
            f"the JSON schema's format {_short(format_)} at {_short(place)} is not supported, expected one of "
            f"{', '.join(sorted(FORMATS))}"
        )
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(keyword), bool):
            raise UsageError(
                f"the JSON schema's {keyword} at {_short(place)} is true or false, expected a number (draft 6)"
            )


def _check_sizes(schemas: list[dict[str, Any]]) -> None:
    """What multiplies inside the compiler."""
    patterns = sum(
        len(s["patternProperties"]) for s in schemas if isinstance(s.get("patternProperties"), dict)
    )
    if patterns > MOST_NAME_PATTERNS:
        raise UsageError(
            f"the JSON schema has {patterns} patternProperties, expected at most {MOST_NAME_PATTERNS}"
        )
    multiples = [m for s in schemas if isinstance(m := s.get("multipleOf"), (int, float))]
    states = math.lcm(*(_coefficient(multiple) for multiple in multiples))
    if states > LARGEST_MULTIPLE:
        raise UsageError(
            f"the JSON schema's multipleOf {_short(max(multiples))} needs {_short(states)} states (all of them "
            f"together), expected at most {LARGEST_MULTIPLE:,}"
        )


def _coefficient(multiple: float) -> int:
    """The number's digits as an integer: 7 for 0.07."""
    number = Decimal(repr(multiple)).normalize().as_tuple()
    digits = int("".join(map(str, number.digits)))
    zeros = min(max(int(number.exponent), 0), 20)  # JSON has no infinities, whose exponents are letters
    return max(1, digits * int(10**zeros))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"
