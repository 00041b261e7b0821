"""karakeep, paperless-gpt and LLM Vision: the bodies that they build, and what they read of the answers."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from tests.runtime.serve.running import CHAT, Running, image_part, text

PROMPT = "Describe this picture in more detail."
TAGS = {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string", "maxLength": 8},
        "maxItems": 2}}, "required": ["tags"], "additionalProperties": False}  # fmt: skip
DRAFT_7 = TAGS | {"$schema": "http://json-schema.org/draft-07/schema#"}
"""As zod writes it for OpenAI."""
DRAFT_2020 = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TAGS}
"""As zod writes it for Ollama."""


class TestKarakeep:
    @pytest.mark.parametrize(
        "form",
        [
            {"type": "json_schema", "json_schema": {"name": "schema", "strict": True, "schema": DRAFT_7}},
            {"type": "json_object"},
            None,
        ],
        ids=["structured", "json", "plain"],
    )
    @pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
    def test_openai(self, server: Running, stop_sign: bytes, form: Any, limit: str) -> None:
        """Its three output schemas, with the limit by either name."""
        most = 900 if form and "json_schema" in form else 40
        content = [text(PROMPT), image_part(stop_sign, "png", detail="low")]
        body = {"model": server.loaded.name, limit: most, "response_format": form, "service_tier": "auto",
                "messages": [{"role": "user", "content": content}]}  # fmt: skip
        headers = {"X-Title": "Karakeep", "HTTP-Referer": "https://karakeep.app", "Authorization": "Bearer x"}
        answer = server.post(CHAT, body, headers).json
        response = answer["choices"][0]["message"]["content"]
        assert response
        assert answer["usage"]["total_tokens"] > answer["usage"]["completion_tokens"]
        if form and "json_schema" in form:
            jsonschema.validate(json.loads(response), DRAFT_7)

    @pytest.mark.parametrize("form", [DRAFT_2020, "json", None], ids=["structured", "json", "plain"])
    def test_ollama(self, server: Running, stop_sign: bytes, form: Any) -> None:
        """It adds up pieces and counts of all lines; lines without counts have none at all."""
        body = {"model": server.loaded.name, "stream": True, "keep_alive": "5m", "prompt": PROMPT,
                "images": [base64.b64encode(stop_sign).decode()], "format": form,
                "options": {"num_ctx": 8192, "num_predict": 40 if form == "json" else 900}}  # fmt: skip
        body = {name: value for name, value in body.items() if value is not None}
        response, total = "", 0
        for line in server.post("/api/generate", body).body.splitlines():
            part = json.loads(line)
            assert isinstance(part["response"], str)
            response += part["response"]
            total += part.get("eval_count", 0) + part.get("prompt_eval_count", 0)
        assert total > 10
        if isinstance(form, dict):
            jsonschema.validate(json.loads(response), TAGS)
        assert response


class TestPaperlessGpt:
    """By langchaingo, whose types are Go's: a field of another type fails the whole answer."""

    def test_openai(self, server: Running, stop_sign: bytes) -> None:
        content = [image_part(stop_sign, "jpeg"), text("Just transcribe the text in this image.")]
        body = {"model": server.loaded.name, "messages": [{"role": "user", "content": content}], "temperature": 0,
                "max_completion_tokens": 40}  # fmt: skip
        answer = server.post(
            CHAT, body, {"Authorization": "Bearer x", "Content-Type": "application/json"}
        ).json
        (choice,) = answer["choices"]
        assert isinstance(choice["message"]["content"], str)
        assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
        assert choice["finish_reason"] in ("stop", "length")
        assert choice["message"].get("tool_calls") is None
        assert type(answer["created"]) is int
        assert all(isinstance(answer[name], str) for name in ("id", "model", "object", "system_fingerprint"))
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert type(usage["completion_tokens_details"]["reasoning_tokens"]) is int

    def test_ollama(self, server: Running, stop_sign: bytes) -> None:
        """An empty `format` is none, and no `stream` is a stream of lines."""
        message = {"role": "user", "content": "Transcribe.", "images": [base64.b64encode(stop_sign).decode()]}
        body = {"model": server.loaded.name, "messages": [message], "format": "",
                "options": {"num_ctx": 4096, "num_predict": 40, "temperature": 0, "top_k": 20}}  # fmt: skip
        content = ""
        for line in server.post("/api/chat", body).body.splitlines():
            part = json.loads(line)
            assert datetime.fromisoformat(part["created_at"]).tzinfo is not None
            content += part["message"]["content"]
        assert content
        assert type(part["eval_count"] + part["prompt_eval_count"]) is int
        assert all(type(part[name]) is int for name in ("total_duration", "load_duration", "eval_duration"))


class TestLlmVision:
    def test_custom_openai(self, server: Running, stop_sign: bytes) -> None:
        """A greeting tries the connection; then pictures with a name before each, a title, a structure."""
        headers = {"Content-type": "application/json", "Authorization": "Bearer x"}
        greeting = [{"role": "user", "content": [text("Hi")]}]
        assert server.post(CHAT, {"model": server.loaded.name, "messages": greeting}, headers).status == 200
        content = [text("Image 1:"), image_part(stop_sign, "jpeg"), text("doorbell:"), image_part(stop_sign, "jpeg"),
                   text(PROMPT)]  # fmt: skip
        vision = {"model": server.loaded.name, "max_completion_tokens": 100, "temperature": 0.5, "top_p": 0.95,
                  "messages": [{"role": "system", "content": "You are a guard."},
                               {"role": "user", "content": content}]}  # fmt: skip
        title = {**vision, "messages": [{"role": "user", "content": [text("Provide a title.")]},
                                        {"role": "user", "content": [text("A red sign.")]}]}  # fmt: skip
        form = {"type": "json_schema", "json_schema": {"name": "response", "strict": True, "schema": TAGS}}
        for body in (
            vision,
            title,
            {**vision, "max_completion_tokens": 900, "temperature": 0, "response_format": form},
        ):
            choices = server.post(CHAT, body, headers).json.get("choices")
            assert isinstance(choices, list)
            assert isinstance(choices[0]["message"]["content"], str)
        jsonschema.validate(json.loads(choices[0]["message"]["content"]), TAGS)
        missing = server.post(CHAT, {**title, "model": "gone"}, headers)
        assert missing.json["error"]["message"]

    def test_local_ai(self, server: Running) -> None:
        assert server.get("/readyz").status == 200
        body = {"model": server.loaded.name, "max_tokens": 10, "temperature": 0.5, "top_p": 0.95,
                "messages": [{"role": "user", "content": [text("Hi")]}]}  # fmt: skip
        assert isinstance(server.post(CHAT, body).json["choices"][0]["message"]["content"], str)

    def test_ollama(self, server: Running, stop_sign: bytes) -> None:
        """Fields of both routes at once, of which the chat's count; `keep_alive` in minutes."""
        assert server.get("/api/tags").status == 200
        images = [base64.b64encode(stop_sign).decode()]
        body = {
            "model": server.loaded.name, "system": "You are a guard.", "prompt": [], "images": images, "stream": False,
            "messages": [{"role": "user", "content": PROMPT, "images": images}], "keep_alive": 5, "think": False,
            "options": {"num_predict": 900, "temperature": 0.0, "top_p": 0.95, "num_ctx": 4096}, "format": TAGS,
        }  # fmt: skip
        answer = server.post("/api/chat", body).json
        jsonschema.validate(json.loads(answer["message"]["content"]), TAGS)
        missing = server.post("/api/chat", {**body, "model": "gone"})
        assert isinstance(missing.json["error"], str)
