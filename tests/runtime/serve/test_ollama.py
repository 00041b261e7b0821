"""Ollama's dialect, by its own client and by what Home Assistant and karakeep send."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pumice.model import Model
from pumice.prompt.builder import PromptBuilder
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import Answer, Running, png, running, text
from tests.runtime.serve.test_leaving import connected

ABOUT = "Describe this picture in more detail."
SCHEMA = {"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"],
          "additionalProperties": False}  # fmt: skip


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def lines(answer: Answer) -> list[Any]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.decode().splitlines()]


def test_a_chat_is_streamed_by_lines_unless_it_is_told_otherwise(
    server: Running, model: Model, stop_sign: bytes
) -> None:
    places = [{"role": "user", "content": [{"type": "image"}, text(ABOUT)]}]
    expected = model.generate(places, [stop_sign], max_new_tokens=500)
    body = {"model": server.loaded.name, "options": {"temperature": 0},
            "messages": [{"role": "user", "content": ABOUT, "images": [b64(stop_sign)]}]}  # fmt: skip
    *pieces, last = lines(server.post("/api/chat", body))
    assert "".join(piece["message"]["content"] for piece in pieces) == expected.text
    assert all(piece["done"] is False and piece["message"]["role"] == "assistant" for piece in pieces)
    assert len(pieces) > 10
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert last["prompt_eval_count"] == expected.usage.prompt_tokens
    assert last["eval_count"] == len(expected.token_ids)
    assert last["total_duration"] >= last["eval_duration"] > 0
    whole = server.post("/api/chat", {**body, "stream": False}).json
    assert whole["message"] == {"role": "assistant", "content": expected.text}
    assert whole["done"] is True
    generated = {"model": f"{server.loaded.name}:latest", "prompt": ABOUT, "stream": False,
                 "images": [f"data:image/png;base64,{b64(stop_sign)}"], "options": {"temperature": 0}}  # fmt: skip
    assert server.post("/api/generate", generated).json["response"] == expected.text


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"num_predict": 4}, {"max_new_tokens": 4}),
        ({"num_predict": -1, "num_ctx": 999_999, "num_gpu": 3, "num_thread": 1}, {}),
        ({"stop": ["red"]}, {"stop_strings": ["red"]}),
        ({"repeat_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"presence_penalty": 1.5, "frequency_penalty": 0.3},
         {"presence_penalty": 1.5, "frequency_penalty": 0.3}),
        ({"temperature": 0.9, "top_k": 7, "top_p": 0.9, "seed": 5},
         {"do_sample": True, "temperature": 0.9, "top_k": 7, "top_p": 0.9, "seed": 5}),
    ],
)  # fmt: skip
def test_options(server: Running, model: Model, options: dict[str, Any], same: dict[str, Any]) -> None:
    expected = model.generate(ABOUT, **{"max_new_tokens": 500, **same})
    body = {"model": server.loaded.name, "prompt": ABOUT, "stream": False, "options": options}
    assert server.post("/api/generate", body).json["response"] == expected.text


def test_formats(server: Running) -> None:
    for fields in ({"format": SCHEMA}, {"format": SCHEMA, "system": "Be brief.", "think": False}):
        body = {"model": server.loaded.name, "prompt": "Red?", "stream": False, **fields}
        jsonschema.validate(json.loads(server.post("/api/generate", body).json["response"]), SCHEMA)
    body = {"model": server.loaded.name, "messages": [{"role": "user", "content": "x"}], "format": "json",
            "stream": False, "options": {"num_predict": 2}}  # fmt: skip
    assert server.post("/api/chat", body).json["message"]["content"].lstrip().startswith("{")


def test_what_clients_ask_of_models(server: Running, model: Model) -> None:
    name = f"{server.loaded.name}:latest"
    (entry,) = server.get("/api/tags").json["models"]
    assert entry["name"] == entry["model"] == name
    assert len(entry["digest"]) == 64
    assert entry["size"] > 0
    (running_one,) = server.get("/api/ps").json["models"]
    assert running_one["expires_at"] > "2100"
    for field in ("model", "name"):
        shown = server.post("/api/show", {field: name}).json
        assert shown["capabilities"] == ["completion", "vision"]
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == model.context_length
    assert server.get("/api/version").json["version"]
    assert server.get("/").body == b"Ollama is running"
    assert server.request("HEAD", "/").status == 200
    for body in ({"model": name}, {"model": name, "keep_alive": -1}, {"model": name, "prompt": ""}):
        loaded = server.post("/api/generate", body).json
        assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    assert server.post("/api/chat", {"model": name, "messages": []}).json["done_reason"] == "load"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", b"{", 400),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}, 400),
        ("/api/chat", {"model": "none", "messages": [{"role": "user", "content": "x"}]}, 404),
        ("/api/chat", {"model": "none"}, 404),
        ("/api/show", {"model": "none"}, 404),
        ("/api/chat", {"model": "gpt-vision", "messages": [{"role": "user", "images": ["%%"]}]}, 400),
        ("/api/chat", {"model": "gpt-vision", "messages": [{"role": "user", "images": [5]}]}, 400),
        ("/api/generate", {"model": "gpt-vision", "prompt": "x", "raw": True}, 400),
        ("/api/generate", {"model": "gpt-vision", "prompt": "x", "format": "xml"}, 400),
        ("/api/generate", {"model": "gpt-vision", "prompt": "x", "options": {"mirostat": 1}}, 400),
        ("/api/generate", {"model": "gpt-vision", "prompt": "x", "options": {"top_p": "x"}}, 400),
        ("/api/pull", {"model": "llava"}, 501),
        ("/api/embed", {"model": "llava"}, 501),
    ],
)
def test_errors_are_a_text(server: Running, path: str, body: Any, status: int) -> None:
    answer = server.post(path, body)
    assert answer.status == status
    assert set(answer.json) == {"error"}
    assert isinstance(answer.json["error"], str)


def test_a_silent_stream_says_that_it_lives(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By lines without text, which every client can read."""
    gate, real = Gate(), PromptBuilder.prepare

    def held(self: PromptBuilder, *rest: Any, **more: Any) -> Any:
        gate.pass_through()
        return real(self, *rest, **more)

    with running(pebble_bundle, gate=gate, keep_alive=0.05) as server:
        monkeypatch.setattr(PromptBuilder, "prepare", held)
        body = json.dumps({"model": server.loaded.name, "prompt": "Hi", "images": [b64(png())]}).encode()
        request = (
            f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        with connected(server, request + body) as connection:
            data = b""
            while data.count(b'"response":""') < 3:
                data += connection.recv(4096)
            assert gate.reached.is_set()
            gate.open()
            while b'"done":true' not in data:
                data += connection.recv(4096)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    client = pytest.importorskip("ollama").Client(host=server.url)
    yield client
    client._client.close()


def test_its_own_client(client: Any, server: Running, model: Model, stop_sign: bytes) -> None:
    name = server.loaded.name
    places = [{"role": "user", "content": [{"type": "image"}, text(ABOUT)]}]
    expected = model.generate(places, [stop_sign], max_new_tokens=500).text
    assert [each.model for each in client.list().models] == [f"{name}:latest"]
    assert client.show(name).capabilities == ["completion", "vision"]
    assert client.ps().models[0].model == f"{name}:latest"
    asked = [{"role": "user", "content": ABOUT, "images": [stop_sign]}]
    answer = client.chat(name, messages=asked, options={"temperature": 0}, keep_alive="300s")
    assert answer.message.content == expected
    stream = client.chat(name, messages=asked, options={"temperature": 0}, stream=True)
    assert "".join(part.message.content for part in stream) == expected
    generated = client.generate(name, ABOUT, images=[stop_sign], format=SCHEMA, keep_alive=-1)
    jsonschema.validate(json.loads(generated.response), SCHEMA)
    with pytest.raises(Exception, match="there is no model 'llava'") as missing:
        client.chat("llava", messages=asked)
    assert missing.value.status_code == 404  # type: ignore[attr-defined]
