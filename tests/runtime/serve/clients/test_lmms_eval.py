"""lmms-eval's `openai` model: 32 requests at once, greedily, through OpenAI's client, and tries again by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pumice.model import Model
from tests.runtime.serve.running import PATIENCE, Running, image_part, running, text

openai = pytest.importorskip("openai")
QUESTIONS = [f"What is this? {number}" for number in range(32)]


def payload(server: Running, question: str, image: bytes) -> dict[str, Any]:
    content = [image_part(image), text(question)]
    return {"messages": [{"role": "user", "content": content}], "model": server.loaded.name, "max_tokens": 6,
            "temperature": 0}  # fmt: skip


def test_a_task_of_many_documents(server: Running, model: Model, stop_sign: bytes) -> None:
    """All at once are each what the model says alone, with their counts."""
    places = [[{"role": "user", "content": [{"type": "image"}, text(question)]}] for question in QUESTIONS]
    expected = [model.generate(each, [stop_sign], max_new_tokens=6, do_sample=False) for each in places[:4]]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", timeout=PATIENCE) as client:

        def ask(question: str) -> tuple[str, int, int, int]:
            response = client.chat.completions.create(**payload(server, question, stop_sign))
            usage = response.usage
            reasoning = usage.completion_tokens_details.reasoning_tokens or 0
            return (
                response.choices[0].message.content,
                usage.prompt_tokens,
                usage.completion_tokens,
                reasoning,
            )

        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(ask, QUESTIONS))
    assert [each[0] for each in found[:4]] == [result.text for result in expected]
    assert [each[1] for each in found[:4]] == [result.usage.prompt_tokens for result in expected]
    assert all(0 < completion <= 6 and reasoning == 0 for _, _, completion, reasoning in found)


def test_it_hears_that_it_asks_too_much(pebble_bundle: Path, stop_sign: bytes) -> None:
    """Its adaptive concurrency goes by words in the message of a refusal."""
    with running(pebble_bundle, slots=1, max_queue=1) as server:
        places = server.app.server.admission
        with (
            openai.OpenAI(
                base_url=f"{server.url}/v1", api_key="x", timeout=PATIENCE, max_retries=0
            ) as client,
            places.place(1),
            places.place(1),
            pytest.raises(openai.RateLimitError) as refused,
        ):
            client.chat.completions.create(**payload(server, "What?", stop_sign))
        assert any(word in str(refused.value).lower() for word in ("429", "rate limit"))
