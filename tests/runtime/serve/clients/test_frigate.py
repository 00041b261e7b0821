"""Frigate's three providers that reach a local server: llamacpp, openai, ollama; what each builds and reads."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from pumice.model import Model
from tests.runtime.serve.running import CHAT, PATIENCE, Running, image_part, text

PROMPT = "Describe this picture in more detail."
SCAN = {"type": "function", "function": {"name": "search_objects", "description": "Search.", "parameters": {
    "type": "object", "properties": {"label": {"type": "string", "maxLength": 8}}, "required": ["label"]}}}  # fmt: skip


def review_schema(least: int, most: int) -> dict[str, Any]:
    """Of a review's description, as pydantic writes it: titles, descriptions, defaults, a field that may be null."""
    line = {"type": "string", "minLength": least, "maxLength": most}
    return {
        "title": "ReviewMetadata", "type": "object",
        "properties": {
            "observations": {"description": "In chronological order.", "items": line, "maxItems": 4, "minItems": 3,
                             "title": "Observations", "type": "array"},
            "title": {"description": "Title for the activity.", "maxLength": most, "title": "Title", "type": "string"},
            "confidence": {"description": "From 0.0 to 1.0.", "maximum": 1.0, "minimum": 0.0, "title": "Confidence",
                           "type": "number"},
            "potential_threat_level": {"maximum": 2, "minimum": 0, "title": "Threat Level", "type": "integer"},
            "other_concerns": {"anyOf": [{"items": {"type": "string", "maxLength": most}, "type": "array",
                               "maxItems": 1}, {"type": "null"}], "default": None, "title": "Other Concerns"},
        },
        "required": ["observations", "title", "confidence", "potential_threat_level"],
    }  # fmt: skip


def jpeg(size: tuple[int, int] = (320, 240)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def frames(count: int) -> list[dict[str, Any]]:
    return [image_part(jpeg(), "jpeg") for _ in range(count)]


def reviewed(content: str | None) -> None:
    """A review that its model takes: what the schema asks for, and fields that it reads one by one."""
    found = json.loads(content or "")
    assert 3 <= len(found["observations"]) <= 4
    assert all(8 <= len(line) <= 16 for line in found["observations"])
    assert 0 <= found["confidence"] <= 1
    assert found["potential_threat_level"] in (0, 1, 2)
    assert isinstance(found["title"], str)


class TestLlamaCpp:
    """Provider `llamacpp`: everything by plain requests."""

    @pytest.mark.parametrize("configured", ["id", "alias"])
    def test_what_it_learns_of_the_model(self, server: Running, model: Model, configured: str) -> None:
        entries = server.get("/v1/models").json["data"]
        name = server.loaded.name if configured == "id" else "gpt-vision"
        (entry,) = [e for e in entries if name in {e.get("id"), *e.get("aliases", [])}]
        modalities = entry["architecture"]["input_modalities"]
        assert isinstance(modalities, list)
        assert "image" in modalities
        assert "audio" not in modalities
        assert int(entry["meta"]["n_ctx"]) == model.context_length
        assert not isinstance(entry["status"].get("args"), list)
        props = server.get(f"/props?model={name}").json
        assert props["default_generation_settings"]["n_ctx"] == model.context_length
        assert props["modalities"] == {"vision": True, "audio": False}
        assert props["chat_template_caps"]["supports_tools"] is False
        assert isinstance(props["chat_template"], str)
        assert "enable_thinking" not in props["chat_template"]
        assert props["media_marker"]

    def test_what_an_image_costs(self, server: Running, model: Model) -> None:
        """It asks with one new token, with an image and without; the difference is the image's tokens."""

        def prompt_tokens(content: list[dict[str, Any]]) -> int:
            body = {
                "model": server.loaded.name,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 1,
            }
            return int(server.post(CHAT, body).json["usage"]["prompt_tokens"])

        places = [{"role": "user", "content": [text("."), {"type": "image"}]}]
        expected = model.prepare(places, [jpeg()]).tokens - model.prepare(".").tokens
        assert prompt_tokens([text("."), *frames(1)]) - prompt_tokens([text(".")]) == expected

    def test_descriptions_and_reviews(self, server: Running, stop_sign: bytes) -> None:
        body: dict[str, Any] = {"model": server.loaded.name, "temperature": 0, "messages": [
            {"role": "user", "content": [text(PROMPT), image_part(stop_sign, "jpeg")]}]}  # fmt: skip
        assert server.post(CHAT, body).json["choices"][0]["message"]["content"].strip()
        form = {"type": "json_schema", "json_schema": {"name": "review_metadata", "strict": True,
                "schema": review_schema(8, 16)}}  # fmt: skip
        body["messages"][0]["content"] = [text(PROMPT), *frames(3)]
        reviewed(
            server.post(CHAT, {**body, "response_format": form}).json["choices"][0]["message"]["content"]
        )

    def test_its_chat(self, server: Running, stop_sign: bytes) -> None:
        """Streamed, with tools, and with counts from the last chunk's usage and timings."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": [text(PROMPT), image_part(stop_sign)]}],
            "model": server.loaded.name, "stream": True, "stream_options": {"include_usage": True},
            "timings_per_token": True, "tools": [SCAN], "tool_choice": "auto", "temperature": 0,
        }  # fmt: skip
        said, finish, stats = "", "", {}
        for event in server.post(CHAT, body).events[:-1]:
            usage, timings = event.get("usage") or {}, event.get("timings") or {}
            if usage:
                stats = {"prompt": usage["prompt_tokens"], "completion": usage["completion_tokens"],
                         "ms": timings["predicted_ms"], "speed": timings["predicted_per_second"]}  # fmt: skip
            if not event.get("choices"):
                continue
            said += event["choices"][0].get("delta", {}).get("content") or ""
            finish = event["choices"][0].get("finish_reason") or finish
        whole = server.post(CHAT, {**body, "stream": False}).json
        choice = whole["choices"][0]
        assert (said, finish) == (choice["message"]["content"], choice["finish_reason"])
        assert choice["message"].get("tool_calls") is None
        assert (stats["prompt"], stats["completion"]) == (
            whole["usage"]["prompt_tokens"],
            whole["usage"]["completion_tokens"],
        )
        assert all(isinstance(stats[name], float) and stats[name] > 0 for name in ("ms", "speed"))

    def test_a_tool_and_a_picture_that_it_returned(self, server: Running) -> None:
        body = {"model": server.loaded.name, "tools": [SCAN], "tool_choice": "required", "temperature": 0,
                "messages": [{"role": "user", "content": "Who was there?"}], "max_tokens": 600}  # fmt: skip
        choice = server.post(CHAT, body).json["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "search_objects")
        assert call["id"]
        assert set(json.loads(call["function"]["arguments"])) == {"label"}
        history = [*body["messages"], {"role": "assistant", "content": None, "tool_calls": [call]},  # type: ignore[misc]
                   {"role": "tool", "tool_call_id": call["id"], "content": "[]"},
                   {"role": "user", "content": [text("Here is the live image."), *frames(1)]}]  # fmt: skip
        later = {**body, "messages": history, "tool_choice": "auto"}
        assert server.post(CHAT, later).json["choices"][0]["message"]["content"]


def test_provider_openai(server: Running, model: Model, stop_sign: bytes) -> None:
    """By OpenAI's client: `detail` low, a strict schema, and the context by vLLM's field of the model."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", timeout=PATIENCE, max_retries=0) as client:
        assert sorted(each.id for each in client.models.list().data) == [server.loaded.name]
        (entry,) = client.models.list().data
        assert entry.max_model_len == model.context_length
        content = [text(PROMPT), image_part(stop_sign, "jpeg", detail="low")]
        schema = review_schema(8, 16) | {"additionalProperties": False}
        form = {
            "type": "json_schema",
            "json_schema": {"name": "review_metadata", "strict": True, "schema": schema},
        }
        asked: dict[str, Any] = {"model": entry.id, "messages": [{"role": "user", "content": content}],
                                 "temperature": 0, "timeout": 120}  # fmt: skip
        reviewed(client.chat.completions.create(**asked, response_format=form).choices[0].message.content)
        said, counts = "", None
        for chunk in client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            counts = chunk.usage or counts
            if not chunk.choices:
                continue
            assert getattr(chunk.choices[0].delta, "reasoning_content", None) is None
            said += chunk.choices[0].delta.content or ""
        assert said.strip()
        assert counts is not None
        assert counts.prompt_tokens > counts.completion_tokens > 0


def test_provider_ollama(server: Running, stop_sign: bytes) -> None:
    """By Ollama's client: images as bytes, its own defaults, a schema without notes; chats whole and streamed."""
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=server.url, timeout=PATIENCE)
    options = {"temperature": 0.5, "repeat_penalty": 1.05, "presence_penalty": 0.3}
    with client._client:
        shown = client.show(server.loaded.name)
        assert not shown.get("error")
        assert "thinking" not in (shown.get("capabilities") or [])
        names = [each.get("name", each.get("model", "")) for each in client.list().get("models", [])]
        assert names == [f"{server.loaded.name}:latest"]
        result = client.generate(server.loaded.name, PROMPT, images=[stop_sign, jpeg()], options=options)
        assert str(result["response"]).strip()
        assert result.get("done")
        assert result.get("eval_count") > 0
        assert result.get("prompt_eval_count") > 0
        schema = {"type": "object", "required": ["label", "level"], "properties": {
            "label": {"type": "string", "maxLength": 16}, "level": {"type": "integer", "enum": [0, 1, 2]}}}  # fmt: skip
        formed = client.generate(
            server.loaded.name, PROMPT, images=[jpeg()], format=schema, options={"temperature": 0}
        )
        assert json.loads(formed["response"])["level"] in (0, 1, 2)
        call = {"function": {"name": "search_objects", "arguments": {"label": "car"}}}
        messages = [{"role": "user", "content": PROMPT, "images": [base64.b64encode(stop_sign).decode()]},
                    {"role": "assistant", "content": "", "tool_calls": [call]},
                    {"role": "tool", "content": "[]", "tool_call_id": "call_0", "name": "search_objects"}]  # fmt: skip
        answer = client.chat(server.loaded.name, messages=messages, tools=[SCAN], options=options)
        assert "message" in answer
        assert answer["message"].get("content", "").strip()
        assert not answer["message"].get("tool_calls")
        chunks = list(client.chat(server.loaded.name, messages=messages[:1], stream=True, options=options))
        assert "".join(chunk.get("message", {}).get("content") or "" for chunk in chunks).strip()
        assert chunks[-1].get("done")
        assert chunks[-1].get("eval_duration") > 0
