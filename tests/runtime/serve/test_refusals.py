"""What cannot be answered is refused in OpenAI's form, with the place of what is wrong; never by 5xx."""

from __future__ import annotations

import socket
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice import errors
from pumice.serve.refusals import RefusalError, refusal_of
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Answer,
    Running,
    data_uri,
    image_part,
    png,
    question,
    received,
    running,
    text,
)


def refused(answer: Answer, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error = answer.error
    assert (error["code"], error["param"]) == (code, param), error
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"null", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (question(temperature="hot"), "temperature"),
        (question(temperature=-1), "temperature"),
        (question(temperature=1e9), "temperature"),
        (question(top_p=2, temperature=1), "top_p"),
        (question(max_tokens=0), "max_tokens"),
        (question(max_tokens="5"), "max_tokens"),
        (question(n=0), "n"),
        (question(n=1000), "n"),
        (question(n=5, temperature=1), None),
        (question(stop=5), "stop"),
        (question(stop=["a"] * 1000), "stop"),
        (question(logit_bias={"x": 1}), "logit_bias"),
        (question(logit_bias={"99999999": 1}), "logit_bias"),
        (question(logit_bias={"5": "x"}), "logit_bias[...]"),
        (question(logprobs=True, top_logprobs=21), "top_logprobs"),
        (question(top_logprobs=2), "top_logprobs"),
        (question(frequency_penalty=9), "frequency_penalty"),
        (question(presence_penalty=-9), "presence_penalty"),
        (question(seed=1.5), "seed"),
        (question(seed=2**70), "seed"),
        (question(stream="yes"), "stream"),
        (question(stream_options=5), "stream_options"),
        (question("lone \ud800 surrogate"), None),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(server: Running, body: Any, param: str | None) -> None:
    answer = server.post(CHAT, body)
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param or (param is None and answer.error["param"] in ("messages", None))
    assert server.idle()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("grammar", "root ::= x"),
        ("chat_template", "{{ 1 }}"),
        ("web_search_options", {}),
        ("moderation", {"model": "some"}),
        ("use_beam_search", True),
        ("echo", True),
        ("best_of", 5),
        ("mirostat", 2),
        ("prompt", "hi"),
    ],
)
def test_what_would_change_the_answer_is_not_passed_over(server: Running, name: str, value: Any) -> None:
    refused(server.chat("hi", **{name: value}), 400, "unsupported_value", name)
    assert server.chat("hi", max_tokens=1, **{name: None}).status == 200


PLACE = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("part", "code", "param"),
    [
        ({"type": "image_url", "image_url": data_uri(png())}, None, ".image_url"),
        ({"type": "image_url"}, None, ".image_url"),
        ({"type": "image_url", "image_url": {"url": 5}}, None, ".image_url"),
        (image_part(png(), detail="ultra"), None, ".image_url.detail"),
        ({"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}, "invalid_image_url", ".image_url"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "invalid_image_url", ".image_url"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "invalid_image_format", ".image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "invalid_base64", ".image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "invalid_image_url", ".image_url"),
        ({"type": "image_url", "image_url": {"url": ""}}, "invalid_image_format", ".image_url"),
        (image_part(b"BM" + b"\0" * 12 + b"\x28\0\0\0" + b"\0" * 40), "invalid_image_format", ".image_url"),
        (image_part(png()[:20]), "invalid_image_format", ".image_url"),
        (image_part(png(size=(9000, 9000))), "image_too_large", ".image_url"),
        ({"type": "input_image", "file_id": "x"}, None, ".image_url"),
        ({"type": "input_audio", "input_audio": {}}, "unsupported_value", ""),
        ({"type": "file", "file": {}}, "unsupported_value", ""),
        ({"type": "image", "path": "/etc/passwd"}, "unsupported_value", ""),
        ({"kind": "x"}, "unsupported_value", ""),
    ],
)  # fmt: skip
def test_images_that_are_not_accepted_are_refused(
    server: Running, part: Any, code: str | None, param: str
) -> None:
    error = refused(server.chat([part, text("What?")]), 400, code, PLACE + param)
    assert "/etc" not in error["message"]


def test_damage_behind_an_images_head_is_told_in_a_stream_and_without(server: Running) -> None:
    noise = Image.effect_noise((200, 200), 90)
    buffer = BytesIO()
    noise.save(buffer, "PNG")
    cut = image_part(buffer.getvalue()[:9000])
    refused(server.chat([cut, text("What?")]), 400, "invalid_image_format", None)
    *_, last = server.chat([cut, text("What?")], stream=True).events
    assert last["error"]["code"] == "invalid_image_format"
    assert set(last["error"]) == {"message", "type", "param", "code"}


def test_a_prompt_that_does_not_fit_is_refused_before_any_image_is_decoded(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("pumice.images.preprocess.decoded_image", never)
    error = refused(
        server.chat([image_part(png()), text("word " * 3000)]), 400, "context_length_exceeded", "messages"
    )
    assert "2,048" in error["message"]
    too_long = server.chat("x" * 1_100_000)
    refused(too_long, 400, "context_length_exceeded", "messages")


def test_images_alone_may_fill_the_context(pebble_bundle: Path) -> None:
    with running(pebble_bundle, context_length=100) as server:
        answer = server.chat([*[image_part(png())] * 3, text("?")])
        error = refused(answer, 400, "context_length_exceeded", "messages")
        assert "108" in error["message"]
        assert "100" in error["message"]
        refused(server.chat("a b c d e f g h " * 12), 400, "context_length_exceeded", "messages")
        assert server.chat("a b c d " * 4).status == 200


def test_more_images_than_are_accepted(server: Running) -> None:
    answer = server.chat([*[image_part(b"not looked at")] * 9, text("?")])
    assert "9 images" in refused(answer, 400, "too_many_images", "messages")["message"]


def test_an_unknown_model_hears_which_there_are(server: Running) -> None:
    name = server.loaded.name
    assert server.chat("hi", model=name, max_tokens=1).status == 200
    assert server.chat("hi", model="gpt-vision", max_tokens=1).json["model"] == name
    assert server.chat("hi", model=f"{name}:latest", max_tokens=1).status == 200
    error = refused(server.chat("hi", model="gpt-4o"), 404, "model_not_found", "model")
    assert name in error["message"]
    assert "gpt-vision" in error["message"]


def test_routes_and_methods_that_are_not_there(server: Running) -> None:
    refused(server.get("/v1/nothing"), 404, "not_found")
    refused(server.post("/v1/models", {}), 405, "not_found")
    refused(server.get(CHAT), 405, "not_found")
    assert server.get(CHAT).headers["allow"]


def raw(server: Running, data: bytes) -> bytes:
    """What comes back for bytes, before anything else is sent."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(data)
        return received(connection, b"}}")


def test_a_large_body_is_refused_before_it_is_read(server: Running) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n".encode()
    answer = raw(server, head + b"{")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer
    assert server.idle()


def test_a_large_body_without_a_length_is_cut_off(pebble_bundle: Path) -> None:
    with running(pebble_bundle, max_body=2048) as server:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
        assert raw(server, head + chunk * 3).startswith(b"HTTP/1.1 413 ")
        whole = server.post(CHAT, b"x" * 100_000)  # a client that sends all of it reads why
        refused(whole, 413, "request_too_large")
        assert server.idle()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.ImageError("the image is broken"), 400, "invalid_image_format"),
        (errors.ContextLengthError("long"), 400, "context_length_exceeded"),
        (errors.PromptError("odd"), 400, None),
        (errors.UsageError("max_new_tokens is 0"), 400, "unsupported_value"),
        (errors.QueueFullError("full"), 429, "queue_full"),
        (errors.DeadlineError("late"), 408, "timeout"),
        (errors.InsufficientMemoryError("at 0xdeadbeef"), 503, "no_memory"),
        (errors.EngineClosedError("the engine failed: /root/x"), 503, "draining"),
        (errors.BundleError("/root/bundle is broken"), 500, "internal_error"),
        (errors.GenerationError("0xdeadbeef"), 500, "internal_error"),
        (RuntimeError("/root/secret"), 500, "internal_error"),
    ],
)
def test_every_error_has_a_status_and_says_nothing_of_the_inside(
    error: Exception, status: int, code: str | None
) -> None:
    refusal = refusal_of(error)
    assert isinstance(refusal, RefusalError)
    assert (refusal.status, refusal.code) == (status, code)
    assert "/root" not in str(refusal)
    assert "0x" not in str(refusal)
    if status >= 500 and code != "draining":
        assert refusal.headers["x-should-retry"] == "false"  # or openai's client would ask twice more
