"""What an answer must look like: `response_format`, schemas by other names, and functions that have to be called.

Enters: a chat's request. Leaves: options `json_schema` or `regex` for the engine, and the call that an answer is.

A model that was never taught tools cannot choose one, but it can be made to fill one in: a function that is named, or
the only one where one is required, is its parameters' schema; of several, the answer says which:

    {"name": "lights_on", "arguments": {"room": "kitchen"}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pumice.serve.refusals import RefusalError, unsupported
from pumice.serve.schemas import held
from pumice.serve.wire import ChatRequest

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$/#&~\-])")


@dataclass(frozen=True, kw_only=True)
class Function:
    """A tool: its name, and the schema of its arguments."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Options of the engine; `functions` are those of which the answer is a call, if it is one."""

    options: dict[str, Any] = field(default_factory=dict)
    functions: tuple[Function, ...] = ()

    def call(self, text: str) -> tuple[str, str]:
        """The name and the arguments, JSON, that an answer has; one that was cut off has what there is."""
        if len(self.functions) == 1:
            return self.functions[0].name, text
        try:
            said = msgspec.json.decode(text)
            return said["name"], msgspec.json.encode(said["arguments"]).decode()
        except (msgspec.DecodeError, TypeError, KeyError):
            return "", text


def constraint_of(request: ChatRequest) -> Constraint:
    """What the request asks for.

    Raises:
        RefusalError: a malformed one, two that contradict each other, or one that is not supported.
    """
    functions = _forced(request)
    if functions:
        return Constraint(options={"json_schema": _calls(functions)}, functions=functions)
    found = [each for each in (_format(request), *_others(request)) if each is not None]
    if len({msgspec.json.encode(each) for each in found}) > 1:
        raise RefusalError(
            "the answer is constrained in several ways, expected one: leave the others out",
            param="response_format",
        )
    return Constraint(options=found[0] if found else {})


def _format(request: ChatRequest) -> dict[str, Any] | None:
    given = request.response_format
    if given is None or given.get("type") == "text":
        return None
    if given.get("type") == "json_object":
        schema = given.get("schema")
        return _schema(_ANY_OBJECT if schema is None else schema, "response_format.schema")
    if given.get("type") == "json_schema":
        inner = given.get("json_schema")
        if not isinstance(inner, dict):
            raise RefusalError(
                "response_format.json_schema is missing, expected {'name': …, 'schema': {…}}",
                param="response_format.json_schema",
            )
        schema = inner.get("schema")
        return _schema(_ANY_OBJECT if schema is None else schema, "response_format.json_schema.schema")
    raise unsupported(
        "response_format.type",
        f"response_format.type is {str(given.get('type'))[:40]!r}, expected text, json_object or json_schema",
    )


def _others(request: ChatRequest) -> list[dict[str, Any] | None]:
    """llama.cpp's and vLLM's names for the same."""
    structured = request.structured_outputs or {}
    known = {"json", "regex", "choice", "json_object"}
    if unknown := sorted(
        name for name, value in structured.items() if value is not None and name not in known
    ):
        raise unsupported(
            f"structured_outputs.{unknown[0]}", f"structured_outputs.{unknown[0]} is not supported"
        )
    schemas = {
        "json_schema": request.json_schema,
        "guided_json": request.guided_json,
        "structured_outputs.json": structured.get("json"),
        "structured_outputs.json_object": _ANY_OBJECT if structured.get("json_object") else None,
    }
    expressions = {
        "regex": request.regex,
        "guided_regex": request.guided_regex,
        "structured_outputs.regex": structured.get("regex"),
    }
    choices = {"guided_choice": request.guided_choice, "structured_outputs.choice": structured.get("choice")}
    return [
        *(_schema(value, place) for place, value in schemas.items() if value is not None),
        *(_regex(value, place) for place, value in expressions.items() if value is not None),
        *(_choice(value, place) for place, value in choices.items() if value is not None),
    ]


def _schema(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, (dict, str, bool)):
        raise RefusalError(f"{place} is no JSON schema, expected an object", param=place)
    return {"json_schema": held(value)}


def _regex(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, str):
        raise RefusalError(f"{place} is no text, expected a regular expression", param=place)
    return {"regex": value}


def _choice(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise RefusalError(f"{place} is no list of texts", param=place)
    return {"regex": "|".join(_SPECIAL.sub(r"\\\1", one) for one in value)}


def _forced(request: ChatRequest) -> tuple[Function, ...]:
    """The functions of which one has to be called."""
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    for i, old in enumerate(request.functions or ()):
        functions.append(_function({"function": old}, f"functions[{i}]"))
    choice = request.tool_choice if request.tool_choice is not None else request.function_call
    if choice is None or choice in ("auto", "none"):
        return ()
    if choice == "required" or choice == "any":
        if not functions:
            raise RefusalError("tool_choice is required, but there are no tools", param="tool_choice")
        return tuple(functions)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        allowed = allowed if isinstance(allowed, dict) else {}
        if allowed.get("mode", "auto") == "auto":
            return ()
        tools = allowed.get("tools")
        if not isinstance(tools, list) or not tools:
            raise RefusalError("tool_choice allows no tools, expected a list of them", param="tool_choice")
        return tuple(_named(_name(tool), functions) for tool in tools)
    if isinstance(choice, dict):
        return (_named(_name(choice), functions),)
    raise RefusalError(
        f"tool_choice is {str(choice)[:40]!r}, expected none, auto, required or a function",
        param="tool_choice",
    )


def _name(choice: Any) -> str:
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise RefusalError("tool_choice names no function", param="tool_choice")
    return name


def _named(name: str, functions: Sequence[Function]) -> Function:
    found = next((function for function in functions if function.name == name), None)
    if found is None:
        raise RefusalError(
            f"tool_choice names {name[:80]!r}, which is none of the tools", param="tool_choice"
        )
    return found


def _function(tool: Any, place: str) -> Function:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RefusalError(
            f"{place} is no function, expected {{'type': 'function', 'function': {{'name': …}}}}", param=place
        )
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict):
        raise RefusalError(
            f"{place}.function.parameters is no JSON schema", param=f"{place}.function.parameters"
        )
    return Function(name=function["name"], parameters=held(parameters))


def _calls(functions: Sequence[Function]) -> dict[str, Any]:
    """The schema of a call of one of them."""
    if len(functions) == 1:
        return functions[0].parameters
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f.name}, "arguments": {"$ref": f"#/$defs/tool{i}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, f in enumerate(functions)
    ]
    return {
        "anyOf": calls,
        "$defs": {f"tool{i}": _moved(f.parameters, f"#/$defs/tool{i}") for i, f in enumerate(functions)},
    }


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references begin elsewhere."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for key, value in schema.items()
    }
