"""Clients' schemas ask for the same in the keywords that are held."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import jsonschema
import pytest

from pumice.serve.schemas import MOST_CHOICES, held
from tests.runtime.serve.running import CHAT, Running

SEVERAL: dict[str, Any] = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}


def test_formats_that_nobody_defines_are_notes() -> None:
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "entity_id"},
            "day": {"type": "string", "format": "date"},
            "what": {"const": {"format": "RGB"}},
            "all": {"type": "array", "items": [{"type": "string", "format": "x"}], "format": "RGB"},
            "nullable": {"type": "boolean"},
        },
    }
    properties = held(schema)["properties"]
    assert properties == {
        "format": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "what": {"const": {"format": "RGB"}},
        "all": {"type": "array", "items": [{"type": "string"}]},
        "nullable": {"type": "boolean"},
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


POINT: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def test_objects_have_the_properties_that_they_name() -> None:
    shut = POINT | {"additionalProperties": False}
    assert held(POINT) == shut
    assert held({"type": "array", "items": POINT, "$defs": {"p": POINT}}) == {
        "type": "array",
        "items": shut,
        "$defs": {"p": shut},
    }
    named = {"type": "object", "properties": {"properties": POINT, "required": POINT}}
    assert set(held(named)["properties"]) == {"properties", "required"}
    assert held(named)["properties"]["properties"] == shut


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        POINT | {"additionalProperties": True},
        POINT | {"additionalProperties": {"type": "string"}},
        POINT | {"patternProperties": {"^y": {}}},
        POINT | {"required": ["x", "y"]},
        POINT | {"minProperties": 2},
        POINT | {"anyOf": [{"required": ["y"]}, {"required": ["z"]}]},
        {"allOf": [POINT, {"type": "object", "properties": {"y": {}}, "required": ["y"]}]},
        {"allOf": [{"$ref": "#/$defs/p"}, {"required": ["y"]}], "$defs": {"p": POINT}},
        POINT | {"required": 5},
    ],
)
def test_objects_that_need_others_stay_open(schema: dict[str, Any]) -> None:
    assert held(schema) == schema


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"type": "string", "maxLength": 2}, ["ab", ""]),
        ({"type": "string", "enum": ["a", "b"]}, ["a"]),
        ({"type": "integer", "minimum": 2}, [2, 9]),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, [5, True]),
        ({"type": "integer", "const": 5}, [5]),
        ({"const": 5}, [5]),
        (POINT, [{"x": 1}]),
        (SEVERAL, [["a", "b"], []]),
    ],
)
def test_nullable(schema: dict[str, Any], values: list[Any]) -> None:
    """What OpenAPI means: the same values, and null."""
    plain, either = held(schema | {"nullable": False}), held(schema | {"nullable": True})
    assert plain == held(schema)
    for value in values:
        jsonschema.validate(value, plain)
        jsonschema.validate(value, either)
    jsonschema.validate(None, either)
    for wrong in ("abc", 1.5, {"y": 1}, ["c", "a"]):
        assert not jsonschema.Draft202012Validator(either).is_valid(wrong)
    assert not jsonschema.Draft202012Validator(plain).is_valid(None)


def test_a_call_ends_though_its_function_leaves_room_for_more(server: Running) -> None:
    """LangChain's functions do, and a small model would fill it until the limit."""
    tool = {"type": "function", "function": {"name": "point", "parameters": POINT}}
    answer = server.chat("Where?", tools=[tool], tool_choice="required", max_tokens=600).json["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert set(json.loads(answer["message"]["tool_calls"][0]["function"]["arguments"])) == {"x"}


@pytest.mark.parametrize(
    "schema",
    [
        SEVERAL | {"minItems": "x"},
        SEVERAL | {"maxItems": 0.5},
        SEVERAL | {"minItems": 9},
        SEVERAL | {"items": {"enum": 5}},
        POINT | {"minProperties": []},
        POINT | {"required": [[]]},
        POINT | {"properties": {"x": 5}},
        {"nullable": True, "type": 5},
        {"format": 5},
        {"$defs": 5, "properties": [POINT]},
    ],
)
def test_schemas_that_are_none_are_bad_requests(server: Running, schema: dict[str, Any]) -> None:
    answer = server.chat("x", json_schema=schema, max_tokens=2)
    assert answer.status == 400, answer.body


def test_a_schema_without_end_is_a_bad_request(server: Running) -> None:
    depth = 480
    schema = '{"items":' * depth + "true" + "}" * depth
    body = '{"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "json_schema": ' + schema + "}"
    assert server.post(CHAT, body.encode()).status == 400


def test_other_unique_items_are_refused_by_name(server: Running) -> None:
    assert "uniqueItems" not in held(SEVERAL | {"uniqueItems": False})
    many = {**SEVERAL, "items": {"enum": list(range(MOST_CHOICES + 1))}}
    for schema in (many, {"type": "array", "uniqueItems": True}, {"uniqueItems": True}):
        answer = server.chat("x", json_schema=schema)
        assert (answer.status, answer.error["code"]) == (400, "unsupported_value")
        assert "uniqueItems" in answer.error["message"]
    chosen = json.loads(server.chat("x", json_schema=SEVERAL, max_tokens=900).text)
    jsonschema.validate(chosen, SEVERAL)
