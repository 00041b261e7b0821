"""Schemas, expressions and functions that answers are held to, by every name that clients have for them."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from pumice.serve.constraints import constraint_of
from pumice.serve.refusals import RefusalError
from pumice.serve.wire import ChatRequest, Message
from tests.runtime.serve.running import Running

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["color", "count"],
    "additionalProperties": False,
}
LIGHTS = {
    "type": "function",
    "function": {"name": "lights_on", "description": "Turn lights on.", "parameters": SCHEMA},
}
POINT = {
    "type": "function",
    "function": {
        "name": "point",
        "parameters": {
            "type": "object",
            "$defs": {"side": {"enum": ["left", "right"]}},
            "properties": {"side": {"$ref": "#/$defs/side"}},
            "required": ["side"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
            }
        },
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": {"type": "text"}, "json_schema": SCHEMA},
        {"response_format": {"type": "json_object", "schema": SCHEMA}, "json_schema": SCHEMA},
    ],
)
def test_answers_fit_a_schema(server: Running, fields: dict[str, Any]) -> None:
    answer = server.chat("What color?", max_tokens=600, **fields)
    assert answer.status == 200, answer.body
    jsonschema.validate(json.loads(answer.text), SCHEMA)


def test_any_object_is_an_object(server: Running) -> None:
    answer = server.chat("What?", response_format={"type": "json_object"}, max_tokens=3, logit_bias={})
    assert answer.text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "(a|b)c[0-9]{3}"}, "(a|b)c[0-9]{3}"),
        ({"guided_regex": "x{2,4}"}, "x{2,4}"),
        ({"guided_choice": ["a (b)", "c|d"]}, r"a \(b\)|c\|d"),
        ({"structured_outputs": {"choice": ["red.", "blue+"]}}, r"red\.|blue\+"),
        ({"structured_outputs": {"regex": "[0-9]{2}-[0-9]{2}"}}, "[0-9]{2}-[0-9]{2}"),
    ],
)
def test_answers_match_an_expression(server: Running, fields: dict[str, Any], pattern: str) -> None:
    answer = server.chat("What?", max_tokens=40, **fields)
    assert answer.status == 200, answer.body
    assert re.fullmatch(pattern, answer.text)


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "lights_on"}}, "required"])
def test_a_function_is_called(server: Running, choice: Any) -> None:
    fields = {"tools": [LIGHTS], "tool_choice": choice, "max_tokens": 600}
    whole = server.chat("Turn on the lights", **fields).json["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None
    (call,) = whole["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "lights_on"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    events = server.chat("Turn on the lights", stream=True, **fields).events
    calls = [c for e in events[:-1] for c in e["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["id"]
    assert calls[0]["function"]["name"] == "lights_on"
    assert "".join(c["function"]["arguments"] for c in calls) == call["function"]["arguments"]
    assert len(calls) > 2
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_one_of_several_functions_is_called(server: Running, stream: bool) -> None:
    answer = server.chat(
        "Do", tools=[LIGHTS, POINT], tool_choice="required", max_tokens=600, stream=stream, seed=1
    )
    if stream:
        deltas = [c["delta"] for e in answer.events[:-1] for c in e["choices"]]
        (call,) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    else:
        (call,) = answer.json["choices"][0]["message"]["tool_calls"]
    tools = {tool["function"]["name"]: tool["function"] for tool in (LIGHTS, POINT)}
    function: Any = tools[call["function"]["name"]]
    jsonschema.validate(json.loads(call["function"]["arguments"]), function["parameters"])


def test_tools_that_need_not_be_called_are_not(server: Running) -> None:
    plain = server.chat("Hi", max_tokens=3).text
    for choice in ("auto", "none", None):
        answer = server.chat("Hi", max_tokens=3, tools=[LIGHTS], tool_choice=choice)
        assert answer.text == plain
        assert answer.json["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_call_that_is_cut_off_ends_by_its_length(server: Running) -> None:
    (choice,) = server.chat("x", tools=[LIGHTS], tool_choice="required", max_tokens=2).json["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "lights_on"


def test_references_of_functions_are_kept_apart() -> None:
    request = ChatRequest(
        messages=[Message(role="user", content="x")], tools=[POINT, POINT | {}], tool_choice="required"
    )
    schema = constraint_of(request).options["json_schema"]
    valid = {"name": "point", "arguments": {"side": "left"}}
    jsonschema.validate(valid, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "point", "arguments": {"side": "up"}}, schema)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
         "response_format.json_schema.schema"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
        ({"json_schema": SCHEMA, "regex": "x"}, "response_format"),
        ({"guided_choice": []}, "guided_choice"),
        ({"tools": [5], "tool_choice": "auto"}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tools": [LIGHTS], "tool_choice": {"type": "function", "function": {"name": "off"}}}, "tool_choice"),
        ({"tools": [LIGHTS], "tool_choice": {"type": "function"}}, "tool_choice"),
        *(
            ({"tools": [LIGHTS], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
                "mode": "required", "tools": tools}}}, "tool_choice")
            for tools in (5, [], None, {"name": "lights_on"}, [None])
        ),
        ({"functions": [{"name": "f", "parameters": []}], "function_call": "auto"},
         "functions[0].function.parameters"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusalError) as refused:
        constraint_of(ChatRequest(messages=[Message(role="user", content="x")], **fields))
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_schema_that_cannot_be_used_is_refused_with_its_place(server: Running) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64", "if": {}}}}
    answer = server.chat("x", response_format={"type": "json_schema", "json_schema": {"schema": bad}})
    assert answer.status == 400
    assert answer.error["param"] == "response_format"
    assert answer.error["code"] == "unsupported_value"
