"""openai-node and Vercel's AI SDK against `pumice serve`: what they read is what pumice answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pumice.loading import load
from pumice.prompt.builder import PromptBuilder
from pumice.result import Generation
from pumice.serve import chat
from tests.clients.conftest import AskedBundles, Clients
from tests.runtime.serve.running import PATIENCE, Running, eventually, running

PROGRAMS = ("openai_node", "ai_sdk")
SIGN = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"
ABOUT = "Describe this picture in more detail."


@pytest.fixture(scope="module")
def server(asked: AskedBundles) -> Iterator[Running]:
    with running(asked["pebble-fp32"].bundle, keep_alive=0.05) as server:
        yield server


@pytest.fixture(scope="module")
def expected(asked: AskedBundles) -> Generation:
    model = load(asked["pebble-fp32"].bundle, device="cpu", threads=1)
    places = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ABOUT}]}]
    return model.generate(places, [SIGN], max_new_tokens=500)


def run(clients: Clients, program: str, what: str, server: Running) -> Any:
    out = clients.node(f"clients/{program}.mjs", what, f"{server.url}/v1", server.loaded.name, SIGN)
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("what", ["whole", "stream"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_answer_about_an_image(
    program: str, what: str, clients: Clients, server: Running, expected: Generation
) -> None:
    found = run(clients, program, what, server)
    assert (found["text"], found["finish"]) == (expected.text, "stop")
    counts = (expected.usage.prompt_tokens, expected.usage.completion_tokens)
    names = (
        ("prompt_tokens", "completion_tokens")
        if program == "openai_node"
        else ("inputTokens", "outputTokens")
    )
    assert tuple(found["usage"][name] for name in names) == counts
    if (program, what) == ("openai_node", "whole"):
        assert found["names"] == [server.loaded.name]
        assert found["tokens"] == expected.text
        assert found["id"]
    if (program, what) == ("openai_node", "stream"):
        assert found["ids"] == 1


def test_the_helper_for_streams(clients: Clients, server: Running, expected: Generation) -> None:
    found = run(clients, "openai_node", "helper", server)
    assert found["text"] == found["final"] == expected.text


@pytest.mark.parametrize("program", PROGRAMS)
def test_schemas_and_calls_are_parsed(program: str, clients: Clients, server: Running) -> None:
    parsed = run(clients, program, "schema", server)["parsed"]
    assert parsed["red"] in (True, False)
    assert parsed["shape"] in ("round", "other")
    called = run(clients, program, "tool", server)
    assert called["name"] == "sign"
    assert called["parsed"]["red"] in (True, False)
    assert called["finish"] in ("tool_calls", "tool-calls")


def test_errors_are_typed(clients: Clients, server: Running) -> None:
    found = run(clients, "openai_node", "errors", server)
    assert found["missing"] == {
        "kind": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }
    assert (found["image"]["kind"], found["image"]["code"]) == ("BadRequestError", "invalid_image_format")
    assert found["image"]["param"] == "messages[0].content[0].image_url"
    assert (found["stream"]["kind"], found["stream"]["code"]) == ("APIError", "invalid_image_format")
    found = run(clients, "ai_sdk", "errors", server)
    assert (found["missing"]["status"], found["missing"]["code"]) == (404, "model_not_found")
    assert "there is no model 'gone'" in found["missing"]["message"]
    assert "image" in found["stream"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_signs_of_life_are_passed_over(
    program: str, clients: Clients, server: Running, expected: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is not ready before three comments went out."""
    alive, beats, real_beat, real_prepare = threading.Event(), [0], chat._Events.beat, PromptBuilder.prepare

    def beat(self: chat._Events) -> bytes:
        beats[0] += 1
        if beats[0] == 3:
            alive.set()
        return real_beat(self)

    def prepare(self: PromptBuilder, *rest: Any, **more: Any) -> Any:
        assert alive.wait(PATIENCE)
        return real_prepare(self, *rest, **more)

    monkeypatch.setattr(chat._Events, "beat", beat)
    monkeypatch.setattr(PromptBuilder, "prepare", prepare)
    found = run(clients, program, "stream", server)
    assert beats[0] >= 3
    assert (found["text"], found["finish"]) == (expected.text, "stop")


@pytest.mark.parametrize("program", PROGRAMS)
def test_leaving_ends_the_answer(program: str, clients: Clients, server: Running) -> None:
    before = server.loaded.engine.counters.cancelled
    assert run(clients, program, "abort", server)["pieces"] >= 3
    eventually(server.idle)
    assert server.loaded.engine.counters.cancelled == before + 1
