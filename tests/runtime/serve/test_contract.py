"""What the server sends is valid against OpenAI's own schema; `make serve-check` tries thousands of cases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.runtime.serve.running import CHAT, Answer, Running, image_part, png, question, text
from tests.serving.openai_cut import CUT, cut, named

jsonschema = pytest.importorskip("jsonschema")
SPEC: dict[str, Any] = json.loads(CUT.read_text(encoding="utf-8"))


def valid(value: Any, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2, "temperature": 0.7, "seed": 1, "logprobs": True, "top_logprobs": 2},
        {"stop": ["a", "e"], "logit_bias": {"5": -10}, "presence_penalty": 1, "user": "x"},
        {"response_format": {"type": "json_object"}},
        {
            "tools": [{"type": "function", "function": {"name": "see", "parameters": {"type": "object"}}}],
            "tool_choice": "required",
        },
        {"stream_options": {"include_usage": True}, "stream": True},
    ],
)
def test_answers(server: Running, fields: dict[str, Any]) -> None:
    asked = {"max_completion_tokens": 12, "model": server.loaded.name, **fields}
    request = question([image_part(png()), text("What?")], **asked)
    valid(request, "CreateChatCompletionRequest")
    if not fields.get("stream"):
        valid(server.post(CHAT, request).json, "CreateChatCompletionResponse")
    *chunks, last = server.post(CHAT, {**request, "stream": True}).events
    assert last == "[DONE]"
    assert len(chunks) > 2
    for chunk in chunks:
        valid(chunk, "CreateChatCompletionStreamResponse")


def test_models(server: Running) -> None:
    valid(server.get("/v1/models").json, "ListModelsResponse")
    valid(server.get("/v1/models/gpt-vision").json, "Model")


def test_refusals(server: Running) -> None:
    def refused(answer: Answer, *statuses: int) -> None:
        assert answer.status in statuses
        valid(answer.json, "ErrorResponse")
        assert set(answer.json["error"]) == set(SPEC["components"]["schemas"]["Error"]["required"])

    refused(server.get("/v1/models/none"), 404)
    refused(server.post(CHAT, b"{"), 400)
    refused(server.chat(max_tokens="x"), 400)
    refused(server.chat([image_part(b"no image")]), 400)
    refused(server.get(CHAT), 405)
    *_, last = server.chat([image_part(png(size=(300, 300))[:-30]), text("?")], stream=True).events
    valid(last, "ErrorResponse")


def test_the_cut_has_all_that_it_names() -> None:
    assert named(SPEC) <= set(SPEC["components"]["schemas"])


def test_cutting() -> None:
    """Prose goes, properties named like it stay; `nullable` is written as version 3.1 has it."""
    model = {"$ref": "#/components/schemas/M"}
    answer = {"responses": {"200": {"description": "x", "content": {"application/json": {"schema": model}}}}}
    paths = {
        "/chat/completions": {"post": answer},
        "/models": {"get": answer},
        "/models/{model}": {"get": answer},
    }
    own = {
        "type": "object",
        "description": "x",
        "properties": {"title": {"type": "string", "nullable": True}},
    }
    schemas = {"M": own, "ErrorResponse": {"x-y": 1}, "Unused": {}}
    whole = {"openapi": "3.1.0", "info": {"version": "1"}, "paths": paths, "components": {"schemas": schemas}}
    found = cut(whole)["components"]["schemas"]
    title = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert found == {"M": {"type": "object", "properties": {"title": title}}, "ErrorResponse": {}}
