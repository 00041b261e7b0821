"""OpenAI's own Python client against the server: typed objects, streams, parsing, errors, retries."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pumice.model import Model
from tests.runtime.serve.running import PATIENCE, Running, eventually, image_part, png, running, text

openai = pytest.importorskip("openai")
ABOUT = "Describe this picture in more detail."


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0
    ) as client:
        yield client


def messages(image: bytes) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [image_part(image), text(ABOUT)]}]


def test_models(client: Any, server: Running) -> None:
    assert [model.id for model in client.models.list()] == [server.loaded.name]
    assert client.models.retrieve("gpt-vision").owned_by == "pumice"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-4o")
    assert missing.value.code == "model_not_found"


def test_a_completion(client: Any, model: Model, stop_sign: bytes) -> None:
    places = [{"role": "user", "content": [{"type": "image"}, text(ABOUT)]}]
    expected = model.generate(places, [stop_sign], max_new_tokens=500)
    answer = client.chat.completions.create(
        model="gpt-vision", messages=messages(stop_sign), temperature=0, logprobs=True, top_logprobs=1
    )
    (choice,) = answer.choices
    assert choice.message.content == expected.text
    assert (choice.finish_reason, choice.message.role, choice.message.refusal) == ("stop", "assistant", None)
    assert "".join(token.token for token in choice.logprobs.content) == expected.text
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.system_fingerprint.startswith("fp_")
    assert answer._request_id


def test_streams(client: Any, stop_sign: bytes) -> None:
    asked: dict[str, Any] = {"model": "gpt-vision", "messages": messages(stop_sign), "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole
    assert chunks[-1].usage.completion_tokens > 10
    with client.chat.completions.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        assert "".join(pieces) == whole == stream.get_final_completion().choices[0].message.content


def test_leaving_a_stream(client: Any, server: Running) -> None:
    before = server.loaded.engine.counters.cancelled
    stream = client.chat.completions.create(
        model="gpt-vision", messages=[{"role": "user", "content": "Hi"}], temperature=0, stream=True,
        max_tokens=1900, extra_body={"ignore_eos": True},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    eventually(server.idle)
    assert server.loaded.engine.counters.cancelled == before + 1


def test_parsing_and_functions(client: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    color = pydantic.create_model("Color", red=(bool, ...))
    asked = {"model": "gpt-vision", "messages": [{"role": "user", "content": "Red?"}], "temperature": 0}
    parsed = client.chat.completions.parse(**asked, response_format=color, max_tokens=600)
    assert parsed.choices[0].message.parsed.red in (True, False)
    tool = openai.pydantic_function_tool(color)
    choice = {"type": "function", "function": {"name": "Color"}}
    called = client.chat.completions.parse(**asked, tools=[tool], tool_choice=choice, max_tokens=600)
    (call,) = called.choices[0].message.tool_calls
    assert call.function.parsed_arguments.red in (True, False)


def test_errors_are_typed(client: Any) -> None:
    def create(**fields: Any) -> Any:
        content = fields.pop("content", "Hi")
        return client.chat.completions.create(
            **{"model": "gpt-vision", "messages": [{"role": "user", "content": content}], **fields}
        )

    with pytest.raises(openai.BadRequestError) as bad:
        create(content=[image_part(b"no image at all, this"), text("?")])
    assert (bad.value.code, bad.value.param) == (
        "invalid_image_format",
        "messages[0].content[0].image_url",
    )
    with pytest.raises(openai.NotFoundError):
        create(model="gpt-4o")
    with pytest.raises(openai.BadRequestError) as long:
        create(content="word " * 4000)
    assert long.value.code == "context_length_exceeded"
    cut = png(size=(300, 300))[:-30]
    with pytest.raises(openai.APIError) as broken:
        list(create(content=[image_part(cut), text("?")], stream=True))
    assert broken.value.code == "invalid_image_format"


def test_the_client_waits_for_its_turn(pebble_bundle: Path) -> None:
    """A full queue is 429 with when to try again: the client does, and is answered."""
    with running(pebble_bundle, slots=1, max_queue=1) as server:
        question: dict[str, Any] = {
            "model": server.loaded.name,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 2,
        }
        url, places = f"{server.url}/v1", server.app.server.admission

        def ask(retries: int) -> Any:
            with openai.OpenAI(base_url=url, api_key="x", max_retries=retries, timeout=PATIENCE) as client:
                return client.chat.completions.create(**question)

        with ThreadPoolExecutor(1) as pool:
            with places.place(1), places.place(1):
                with pytest.raises(openai.RateLimitError) as full:
                    ask(0)
                assert full.value.response.headers["retry-after"] == "2"
                patient = pool.submit(ask, 5)
                eventually(lambda: places.refused >= 2)
            assert patient.result(PATIENCE).choices[0].message.role == "assistant"
