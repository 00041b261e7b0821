"""Responses are the chat's answers in another form: items, events in OpenAI's order, nothing kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pumice.model import Model
from pumice.serve.refusals import RefusalError
from pumice.serve.responses import responses
from pumice.serve.server import Server
from pumice.serve.settings import Settings
from tests.runtime.serve.running import (
    PATIENCE,
    Answer,
    Running,
    data_uri,
    eventually,
    image_part,
    png,
    text,
)

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")
PATH = "/v1/responses"
ABOUT = "Describe this picture in more detail."
LOOK = {
    "type": "function",
    "name": "look",
    "description": "Look at a place.",
    "parameters": {
        "type": "object",
        "properties": {"red": {"type": "boolean"}},
        "required": ["red"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALM = LOOK | {"name": "calm"}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0
    ) as client:
        yield client


def ask(server: Running, given: Any = ABOUT, **fields: Any) -> Answer:
    return server.post(PATH, {"input": given, "temperature": 0, "max_output_tokens": 20, **fields})


def input_image(image: bytes) -> list[dict[str, Any]]:
    content = [
        {"type": "input_image", "image_url": data_uri(image), "detail": "auto"},
        {"type": "input_text", "text": ABOUT},
    ]
    return [{"role": "user", "content": content}]


def events_of(answer: Answer) -> list[Any]:
    """Each held strictly against the client's types, its name against what it says of itself."""
    from openai.types.responses import ResponseStreamEvent

    assert answer.status == 200, answer.body
    blocks = [block for block in answer.body.decode().split("\n\n") if block.startswith("event: ")]
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        pydantic.TypeAdapter(ResponseStreamEvent).validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[Any]) -> list[str]:
    """The events' kinds, those of several deltas once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_an_answer_is_the_chat_s(client: Any, server: Running, model: Model, stop_sign: bytes) -> None:
    from openai.types.responses import Response

    places = [{"role": "user", "content": [{"type": "image"}, text(ABOUT)]}]
    expected = model.generate(places, [stop_sign], max_new_tokens=500)
    answer = client.responses.create(model="gpt-vision", input=input_image(stop_sign), temperature=0)
    Response.model_validate(answer.to_dict())
    assert answer.output_text == expected.text
    assert (answer.status, answer.object, answer.store) == ("completed", "response", False)
    (item,) = answer.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert answer.usage.input_tokens == expected.usage.prompt_tokens
    assert answer.usage.output_tokens == expected.usage.completion_tokens
    assert answer.usage.input_tokens_details.image_tokens == expected.usage.image_tokens > 0
    cut = client.responses.create(
        model="gpt-vision", input=input_image(stop_sign), temperature=0, max_output_tokens=3
    )
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert expected.text.startswith(cut.output_text)


def test_events_come_in_the_order_of_the_specification(server: Running, stop_sign: bytes) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 500}
    whole = ask(server, input_image(stop_sign), **asked).json
    events = events_of(ask(server, input_image(stop_sign), stream=True, **asked))
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    deltas = [event for event in events if event["type"].endswith("text.delta")]
    part = whole["output"][0]["content"][0]
    assert "".join(delta["delta"] for delta in deltas) == part["text"]
    assert [entry["token"] for delta in deltas for entry in delta["logprobs"]] == [
        entry["token"] for entry in part["logprobs"]
    ]
    assert len(part["logprobs"][0]["top_logprobs"]) == 2
    done = events[-1]["response"]
    assert done["output"][0]["content"][0]["text"] == part["text"]
    assert done["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert {event["item_id"] for event in deltas} == {done["output"][0]["id"]}
    assert {e["response"]["id"] for e in events if "response" in e} == {done["id"]}
    cut = events_of(ask(server, stream=True, max_output_tokens=2))
    assert kinds(cut)[-1] == "incomplete"
    assert cut[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_the_client_s_own_stream(client: Any, stop_sign: bytes) -> None:
    asked = {"model": "gpt-vision", "input": input_image(stop_sign), "temperature": 0}
    whole = client.responses.create(**asked).output_text
    with client.responses.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(pieces) == whole == stream.get_final_response().output_text
    plain = [event.type for event in client.responses.create(**asked, stream=True)]
    assert (plain[0], plain[-1]) == ("response.created", "response.completed")


def test_parsing(client: Any, stop_sign: bytes) -> None:
    color = pydantic.create_model("Color", red=(bool, ...))
    asked = {"model": "gpt-vision", "input": input_image(stop_sign), "temperature": 0}
    parsed = client.responses.parse(**asked, text_format=color, max_output_tokens=600)
    assert parsed.output_parsed.red in (True, False)
    assert parsed.text.format.type == "json_schema"
    any_object = client.responses.create(
        **asked, text={"format": {"type": "json_object"}}, max_output_tokens=600
    )
    if any_object.status == "completed":
        assert isinstance(json.loads(any_object.output_text), dict)
    with client.responses.stream(**asked, text_format=color, max_output_tokens=600) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "look"}])
def test_functions_that_have_to_be_called(client: Any, server: Running, choice: Any) -> None:
    called = client.responses.create(
        model="gpt-vision", input="Look!", tools=[LOOK], tool_choice=choice, temperature=0
    )
    (call,) = called.output
    assert (call.type, call.name, call.status) == ("function_call", "look", "completed")
    assert isinstance(json.loads(call.arguments)["red"], bool)
    fields = {"tools": [LOOK], "tool_choice": choice, "max_output_tokens": 200, "stream": True}
    events = events_of(ask(server, "Look!", **fields))
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(e["delta"] for e in events if e["type"].endswith(".delta")) == call.arguments
    assert events[2]["item"]["name"] == "look"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "function", "name": "look"}, {"type": "function", "name": "calm"}
        ]},
    ],
)  # fmt: skip
def test_one_of_several_functions(server: Running, choice: Any) -> None:
    asked = {"tools": [LOOK, CALM], "tool_choice": choice, "max_output_tokens": 600}
    (call,) = ask(server, "Look!", **asked).json["output"]
    assert call["name"] in ("look", "calm")
    assert isinstance(json.loads(call["arguments"])["red"], bool)
    events = events_of(ask(server, "Look!", stream=True, **asked))
    assert events[-1]["response"]["output"][0]["arguments"] == call["arguments"]
    assert [e["item"]["name"] for e in events if e["type"].endswith("item.added")] == [call["name"]]


def test_a_conversation_of_items(server: Running, model: Model, stop_sign: bytes) -> None:
    items = [
        *input_image(stop_sign),
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"red": true}'},
        {"type": "function_call_output", "call_id": "c1", "output": "It is red."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    told = [
        {"role": "system", "content": "You look at pictures."},
        {"role": "user", "content": [{"type": "image"}, text(ABOUT)]},
        {"role": "assistant", "content": [text("Let me look."), text('look({"red": true})')]},
        {"role": "user", "content": "It is red."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "So?"},
    ]
    expected = model.generate(told, [stop_sign], max_new_tokens=20)
    answer = ask(server, items, instructions="You look at pictures.")
    assert answer.json["output"][0]["content"][0]["text"] == expected.text
    assert answer.json["usage"]["input_tokens"] == expected.usage.prompt_tokens
    assert answer.json["instructions"] == "You look at pictures."


def test_what_changes_nothing_is_accepted_and_repeated(server: Running) -> None:
    plain = ask(server).json
    given = {
        "store": True, "metadata": {"a": "b"}, "user": "me", "truncation": "auto", "parallel_tool_calls": False,
        "tools": [LOOK], "tool_choice": "auto", "include": ["reasoning.encrypted_content"], "background": False,
        "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}, "verbosity": "low"},
        "previous_response_id": None, "prompt_cache_key": "k", "service_tier": "auto", "unheard_of": 1,
    }  # fmt: skip
    answer = ask(server, **given).json
    assert answer["output"][0]["content"] == plain["output"][0]["content"]
    assert (answer["metadata"], answer["user"], answer["store"]) == ({"a": "b"}, "me", False)
    assert answer["tools"] == [LOOK]
    assert (plain["temperature"], plain["tool_choice"], plain["text"]["format"]) == (
        0.0,
        "auto",
        {"type": "text"},
    )
    drawn = ask(server, temperature=1.5, seed=5, top_p=0.5).json  # seed is ours
    assert (
        drawn["output"][0]["content"]
        == ask(server, temperature=1.5, seed=5, top_p=0.5).json["output"][0]["content"]
    )
    assert (drawn["temperature"], drawn["top_p"]) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "unsupported_value", "previous_response_id"),
        ({"conversation": "conv_1"}, "unsupported_value", "conversation"),
        ({"background": True}, "unsupported_value", "background"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_value", "prompt"),
        ({"truncation": "some"}, "unsupported_value", "truncation"),
        ({"messages": [], "input": "x"}, "unsupported_value", "input"),
        ({"n": 2}, "unsupported_value", "n"),
        ({"max_tokens": 5}, "unsupported_value", "max_output_tokens"),
        ({"response_format": {"type": "text"}}, "unsupported_value", "text.format"),
        ({"max_output_tokens": 0}, None, "max_output_tokens"),
        ({"temperature": -1}, None, "temperature"),
        ({"input": None}, None, "input"),
        ({"input": []}, None, "input"),
        ({"input": 5}, None, "input"),
        ({"input": [5]}, None, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, None, "input[0].role"),
        ({"input": [{"role": "user"}]}, None, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_value", "input[0]"),
        ({"input": [{"type": "computer_call"}]}, "unsupported_value", "input[0].type"),
        ({"input": [{"type": "function_call", "name": "x"}]}, None, "input[0].arguments"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
         "unsupported_value", "input[0].content[0]"),
        ({"instructions": "i", "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         None, "input[0].content[0].image_url"),
        ({"input": "word " * 4000}, "context_length_exceeded", "input"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, None, "tools[0].name"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "x"}}, None, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "mcp"}}, "unsupported_value", "tool_choice"),
        ({"tool_choice": "required"}, None, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "unsupported_value", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, None, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}},
         "unsupported_value", "text.format"),
        ({"top_logprobs": 21}, None, "top_logprobs"),
        ({"model": "gpt-4o"}, "model_not_found", "model"),
    ],
)  # fmt: skip
def test_what_is_refused(server: Running, fields: dict[str, Any], code: str | None, param: str) -> None:
    answer = ask(server, **{"input": ABOUT, **fields}) if "input" not in fields else server.post(PATH, fields)
    assert answer.status == (404 if code == "model_not_found" else 400), answer.body
    assert (answer.error["code"], answer.error["param"]) == (code, param), answer.error
    eventually(server.idle)


def test_too_many_images_and_broken_ones(server: Running) -> None:
    part = {"type": "input_image", "image_url": data_uri(png()), "detail": "auto"}
    many = ask(server, [{"role": "user", "content": [part] * 9}])
    assert (many.status, many.error["code"], many.error["param"]) == (400, "too_many_images", "input")
    broken = {**part, "image_url": data_uri(b"no image, this is none")}
    answer = ask(server, [{"role": "user", "content": "Hi"}, {"role": "user", "content": [broken]}])
    assert (answer.error["code"], answer.error["param"]) == (
        "invalid_image_format",
        "input[1].content[0].image_url",
    )


def test_a_stream_that_fails_ends_so(server: Running) -> None:
    cut = {**image_part(png(size=(300, 300))[:-30])["image_url"]}["url"]
    content = [{"type": "input_image", "image_url": cut, "detail": "auto"}]
    events = events_of(ask(server, [{"role": "user", "content": content}], stream=True))
    assert kinds(events) == ["created", "in_progress", "failed"]
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "invalid_image_format")


def test_a_stream_whose_model_is_still_being_loaded_is_refused_in_its_own_words(
    pebble_bundle: Path,
) -> None:
    early = responses(Server(Settings(bundle=pebble_bundle))).app.early("pebble")
    told = early.told(RefusalError("max_tokens is 0", param="max_tokens"))
    error = json.loads(told.removeprefix(b"data: "))["error"]
    assert (error["message"], error["param"]) == ("max_output_tokens is 0", "max_output_tokens")
    assert early.media_type.startswith("text/event-stream")
