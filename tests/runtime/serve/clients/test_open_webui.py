"""Open WebUI 0.12: a connection to OpenAI's dialect with background tasks, and one to Ollama's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.runtime.serve.running import CHAT, PATIENCE, Running, image_part, text

ABOUT = "Describe this picture in more detail."
SUMMED = ("input_tokens", "output_tokens", "total_tokens")


def counted(usage: Mapping[str, Any]) -> dict[str, int]:
    """Tokens by its three names, out of OpenAI's, Ollama's or llama.cpp's."""
    into = usage.get("prompt_tokens") or usage.get("prompt_eval_count")
    into = into if into is not None else usage.get("prompt_n", 0) + usage.get("cache_n", 0)
    out = usage.get("completion_tokens") or usage.get("eval_count") or usage.get("predicted_n") or 0
    return dict(zip(SUMMED, (into, out, usage.get("total_tokens") or into + out), strict=True))


def shown(lines: Iterable[bytes]) -> tuple[str, dict[str, int], list[Any]]:
    """Of a stream's lines: the message, its tokens (all chunks that have some are added up), and errors."""
    said, total, errors = "", dict.fromkeys(SUMMED, 0), []
    for line in lines:
        if not line.strip() or not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            continue
        chunk = json.loads(data)
        assert not chunk.get("type", "").startswith("response.")
        usage = {**(chunk.get("usage") or {}), **chunk.get("timings", {})}
        if usage:
            total = {name: total[name] + count for name, count in counted(usage).items()}
        if not chunk.get("choices"):
            errors += [chunk["error"]] if chunk.get("error") else []
            continue
        said += chunk["choices"][0].get("delta", {}).get("content") or ""
    return said, total, errors


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_models_of_a_connection(server: Running, path: str) -> None:
    """Of provider type llama.cpp, too: loaded or not is the state beside each."""
    answer = server.get(path, {"Authorization": "Bearer "})
    assert answer.status == 200
    (model,) = answer.json["data"]
    assert model["id"] == server.loaded.name
    assert model["status"]["value"] in ("loaded", "sleeping")


def streamed(server: Running, body: dict[str, Any]) -> tuple[str, dict[str, int], list[Any]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        headers = {
            "Content-Type": "application/json",
            "Authorization": "Bearer none",
            "X-OpenWebUI-Chat-Id": "c1",
        }
        connection.request("POST", CHAT, json.dumps(body), headers)
        response = connection.getresponse()
        assert "text/event-stream" in response.headers["Content-Type"]
        return shown(response)
    finally:
        connection.close()


def test_a_chat_with_an_image_and_tasks_beside_it(server: Running, stop_sign: bytes) -> None:
    """Title, tags and follow-ups run while the chat does; counts of a stream add up to those of the whole."""
    chat: dict[str, Any] = {
        "model": server.loaded.name, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
        "messages": [{"role": "user", "content": [text(ABOUT), image_part(stop_sign)]}],
    }  # fmt: skip
    whole = server.post(CHAT, {**chat, "stream": False}).json

    def task(limit: int) -> Any:
        history = f"### Task:\nGenerate a title.\n### Chat History:\nUSER: {ABOUT}\nASSISTANT: A sign."
        body = {"model": server.loaded.name, "messages": [{"role": "user", "content": history}], "stream": False,
                "max_tokens": limit}  # fmt: skip
        return server.post(CHAT, body).json["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(task, limit) for limit in (1000, 1000, 4)]
        said, total, errors = pool.submit(streamed, server, chat).result(PATIENCE)
        assert all(each.result(PATIENCE) for each in tasks)
    assert errors == []
    assert said == whole["choices"][0]["message"]["content"]
    assert total == counted(whole["usage"])
    again, of_timings, _ = streamed(
        server, {name: value for name, value in chat.items() if name != "stream_options"}
    )
    assert (again, of_timings) == (said, total)


def test_a_refusal_is_json_with_what_it_shows(server: Running) -> None:
    body = {"model": "gone", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    answer = server.post(CHAT, body)
    assert answer.status == 404
    assert "application/json" in answer.headers["content-type"]
    assert answer.error["message"]


def test_a_connection_to_ollama(server: Running, stop_sign: bytes) -> None:
    """It is verified by its version; models are annotated by when they are unloaded; chats are lines."""
    assert server.get("/api/version").json["version"]
    (model,) = server.get("/api/tags").json["models"]
    assert model["name"] == model["model"]
    assert {"digest", "size", "modified_at", "details"} <= set(model)
    loaded = {each["model"]: each["expires_at"] for each in server.get("/api/ps").json["models"]}
    assert datetime.fromisoformat(loaded[model["model"]]).timestamp() > datetime.now().timestamp()
    url = image_part(stop_sign)["image_url"]["url"]
    body = {"model": model["model"], "stream": True, "options": {"temperature": 0}, "messages": [
        {"role": "user", "content": ABOUT, "images": [url.partition(",")[2]]}]}  # fmt: skip
    lines = [json.loads(line) for line in server.post("/api/chat", body).body.splitlines()]
    assert "".join(line["message"]["content"] for line in lines)
    assert counted(lines[-1])["output_tokens"] > 10
    assert all(line["model"] == model["model"] for line in lines)
