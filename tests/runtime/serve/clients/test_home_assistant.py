"""Home Assistant: `llama_cpp` by OpenAI's client and `ollama` by Ollama's, as their code asks and reads."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.runtime.serve.running import PATIENCE, Running, data_uri, png, running

openai = pytest.importorskip("openai")
ollama = pytest.importorskip("ollama")

ABOUT = "Describe this picture in more detail."
TURN_ON: dict[str, Any] = {"type": "function", "function": {"name": "HassTurnOn", "description": "Turns on a device.",
           "parameters": {"type": "object", "properties": {
               "name": {"type": "string"}, "domain": {"type": "array", "items": {"type": "string"}}},
               "required": []}}}  # fmt: skip
TRIAL: dict[str, Any] = {
    "messages": [{"role": "system", "content": "You are a helpful assistant."},
                 {"role": "user", "content": "What is the capital of France?"}],
    "tools": [{"type": "function", "function": {"name": "test_function", "description": "Test function.",
               "parameters": {"type": "object", "properties": {}}}}],
    "max_tokens": 3,
}  # fmt: skip
SELECTORS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "color": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3,
              "format": "RGB"},
    "country": {"type": "string", "format": "ISO 3166-1 alpha-2", "maxLength": 8},
    "day": {"type": "string", "format": "date"},
    "entity": {"type": "string", "format": "entity_id", "maxLength": 8},
    "language": {"type": "string", "format": "RFC 5646", "maxLength": 8},
    "maybe": {"type": "string", "enum": ["on", "off"], "nullable": True},
    "number": {"type": "number", "minimum": 0, "maximum": 10},
    "select": {"type": "string", "enum": ["open", "closed"]},
    "several": {"type": "array", "items": {"type": "string", "enum": ["car", "dog"]}, "uniqueItems": True},
    "template": {"type": "string", "format": "jinja2", "maxLength": 8},
    "time": {"type": "string", "format": "time"},
    "format": {"type": "object", "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}},
               "required": []},
}  # fmt: skip
"""What its selectors become, in OpenAPI; formats that JSON Schema does not have are notes there, and here."""


def structure(*names: str) -> dict[str, Any]:
    """A task's, with fields of these selectors."""
    properties = {name: SELECTORS[name] for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


def client_of(server: Running, key: str = "sk-0000000000000000000") -> Any:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, timeout=PATIENCE, max_retries=0)


async def told(stream: AsyncIterator[Any]) -> list[dict[str, Any]]:
    """What a stream becomes in its chat log: it stops at a finish_reason, before it looks at that chunk's text."""
    deltas: list[dict[str, Any]] = []
    call: dict[str, Any] | None = None
    async for chunk in stream:
        if not chunk.choices:
            continue
        choice = chunk.choices[0]
        if choice.finish_reason:
            assert not choice.delta.content, "it would not see this"
            break
        if not choice.delta.tool_calls and call is None:
            said = {"role": choice.delta.role, "content": choice.delta.content}
            deltas.append({name: value for name, value in said.items() if value is not None})
        elif choice.delta.tool_calls:
            piece = choice.delta.tool_calls[0]
            if call is None:
                call = {"id": piece.id, "name": piece.function.name, "arguments": "", "index": piece.index}
                deltas.append({"call": call})
            assert piece.index == call["index"]
            call["arguments"] += piece.function.arguments or ""
    return deltas


def test_its_set_up(server: Running) -> None:
    """A list of models, then a trial with a tool and three tokens, whole and streamed."""

    async def set_up() -> None:
        async with client_of(server) as client:
            names = [model.id async for model in await client.with_options(timeout=10.0).models.list()]
            assert names == [server.loaded.name]
            whole = await client.chat.completions.create(model=names[0], **TRIAL, stream=False)
            assert whole.choices[0].message.content
            stream = await client.chat.completions.create(model=names[0], **TRIAL, stream=True)
            ends = [event.choices[0].finish_reason async for event in stream if event.choices]
            assert ends[:-1] == [None] * (len(ends) - 1)
            assert ends[-1] in ("length", "stop")

    asyncio.run(set_up())


def test_a_conversation_about_an_image_with_tools(server: Running, stop_sign: bytes) -> None:
    """Two turns: a picture beside Assist's tools, then the result of a call, as its history has it."""
    asked: list[Any] = [
        {"role": "system", "content": "You are a voice assistant for Home Assistant."},
        {"role": "user", "content": [
            {"type": "text", "text": ABOUT},
            {"type": "image_url", "image_url": {"url": data_uri(stop_sign), "detail": "auto"}}]},
    ]  # fmt: skip
    options: dict[str, Any] = {"model": server.loaded.name, "tools": [TURN_ON], "max_tokens": 3000, "top_p": 1.0,
                               "temperature": 0.0, "user": "01JQ2"}  # fmt: skip

    async def converse() -> None:
        async with client_of(server) as client:
            whole = await client.chat.completions.create(messages=asked, **options, stream=False)
            assert whole.choices[0].message.tool_calls is None
            deltas = await told(await client.chat.completions.create(messages=asked, **options, stream=True))
            assert deltas[0]["role"] == "assistant"
            assert all("role" not in delta for delta in deltas[1:])
            text = "".join(delta["content"] for delta in deltas)
            assert text == whole.choices[0].message.content
            call = {
                "id": "01A",
                "type": "function",
                "function": {"name": "HassTurnOn", "arguments": '{"name":"lamp"}'},
            }
            later = [*asked, {"role": "assistant", "content": None, "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": "01A", "content": '{"data":{"speech":{}},"error":null}'},
                     {"role": "assistant", "content": text}, {"role": "user", "content": "And now?"}]  # fmt: skip
            deltas = await told(await client.chat.completions.create(messages=later, **options, stream=True))
            assert "".join(delta["content"] for delta in deltas)

    asyncio.run(converse())


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "HassTurnOn"}}])
def test_calls_that_it_reads(server: Running, choice: Any) -> None:
    async def call() -> None:
        async with client_of(server) as client:
            asked: dict[str, Any] = {"model": server.loaded.name, "tools": [TURN_ON], "tool_choice": choice,
                     "temperature": 0.0, "max_tokens": 3000,
                     "messages": [{"role": "user", "content": "Turn on the lamp."}]}  # fmt: skip
            asked["tools"] = [bounded(TURN_ON)]
            whole = await client.chat.completions.create(**asked)
            (called,) = whole.choices[0].message.tool_calls
            (delta,) = [
                d
                for d in await told(await client.chat.completions.create(**asked, stream=True))
                if "call" in d
            ]
            assert delta["call"]["name"] == called.function.name == "HassTurnOn"
            assert delta["call"]["id"]
            assert json.loads(delta["call"]["arguments"]) == json.loads(called.function.arguments)

    asyncio.run(call())


def bounded(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool whose texts have an end, for a model that finds none by itself."""
    text = {"type": "string", "maxLength": 8}
    parameters = {
        "type": "object",
        "properties": {"name": text},
        "required": ["name"],
        "additionalProperties": False,
    }
    return {**tool, "function": {**tool["function"], "parameters": parameters}}


def test_structures_with_any_selector(server: Running) -> None:
    async def ask(client: Any, schema: dict[str, Any]) -> Any:
        form = {"type": "json_schema", "json_schema": {"name": "task", "strict": True, "schema": schema}}
        answer = await client.chat.completions.create(
            model=server.loaded.name, messages=[{"role": "user", "content": ABOUT}], temperature=0.0,
            response_format=form, max_tokens=1500,
        )  # fmt: skip
        return json.loads(answer.choices[0].message.content)

    async def ask_all() -> list[Any]:
        async with client_of(server) as client:
            return await asyncio.gather(*(ask(client, structure(name)) for name in SELECTORS))

    for name, found in zip(SELECTORS, asyncio.run(ask_all()), strict=True):
        if found != {"maybe": None}:  # which jsonschema does not know from OpenAPI
            jsonschema.validate(found, structure(name))


def test_what_it_says_when_it_fails(pebble_bundle: Path, tmp_path: Path) -> None:
    """A wrong key and a wrong name are errors of kinds that it tells apart, in the server's own words."""
    keys = tmp_path / "keys"
    keys.write_text("the-right-key\n")
    keys.chmod(0o600)

    async def fail(server: Running) -> None:
        async with client_of(server, "a-wrong-key") as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.models.list()
            assert refused.value.response.json()["error"]["message"]
        async with client_of(server, "the-right-key") as client:
            with pytest.raises(openai.APIStatusError) as missing:
                await client.chat.completions.create(model="gpt-3.5-turbo", **TRIAL)
            assert server.loaded.name in missing.value.response.json()["error"]["message"]
        for key in (None, "the-right-key"):
            headers = {"Authorization": f"Bearer {key}"} if key else None
            other = ollama.AsyncClient(host=server.url, headers=headers)
            async with other._client:
                if key:
                    assert len((await other.list()).models) == 1
                    continue
                with pytest.raises(ollama.ResponseError) as closed:
                    await other.list()
                assert closed.value.status_code in (401, 403)

    with running(pebble_bundle, api_key_file=keys) as server:
        asyncio.run(fail(server))


def test_tasks_of_ollama(server: Running, stop_sign: bytes, tmp_path: Path) -> None:
    """Models by their names, what is loaded, and a task about a camera's picture with a structure."""
    camera = tmp_path / "camera.png"
    camera.write_bytes(stop_sign)
    model, fields = f"{server.loaded.name}:latest", structure("boolean", "select", "country")

    async def task() -> dict[str, Any]:
        client = ollama.AsyncClient(host=server.url)
        async with client._client:
            installed, loaded = await asyncio.gather(client.list(), client.ps())
            assert [each["model"] for each in installed.get("models", [])] == [model]
            assert sum(each.size or 0 for each in loaded.models) > 0
            assert sum(each.size_vram or 0 for each in loaded.models) == 0
            stream = await client.chat(
                model=model, stream=True, keep_alive=-1, options={"num_ctx": 8192}, think=False, tools=None,
                format=fields, messages=[
                    ollama.Message(role="system", content="You are a Home Assistant expert."),
                    ollama.Message(role="user", content=ABOUT, images=[ollama.Image(value=camera)])],
            )  # fmt: skip
            text = ""
            async for response in stream:
                message = response["message"]
                assert message.get("tool_calls") is None
                assert message.get("thinking") is None
                text += message.get("content") or ""
            return dict(json.loads(text))

    jsonschema.validate(asyncio.run(task()), fields)


def test_a_conversation_of_ollama(server: Running) -> None:
    """With Assist's tools, a call and its result in the history; keep_alive in seconds."""
    call = {"function": {"name": "HassTurnOn", "arguments": {"name": "lamp"}}}
    body = {
        "model": server.loaded.name, "stream": True, "keep_alive": "300s", "options": {"num_ctx": 8192},
        "tools": [TURN_ON], "messages": [
            {"role": "user", "content": "Turn on the lamp.", "images": [base64.b64encode(png()).decode()]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": '{"data":{"speech":{}},"error":null}'}],
    }  # fmt: skip
    pieces = [json.loads(line) for line in server.post("/api/chat", body).body.splitlines()]
    assert "".join(piece["message"]["content"] for piece in pieces)
    assert pieces[-1]["done"] is True
