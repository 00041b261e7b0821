"""What programs for local models ask beside answers. Their whole flows are in `clients/`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from pumice.model import Model
from pumice.scheduler.scheduler import Scheduler
from pumice.serve import bundles, local, moving
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import CHAT, PATIENCE, Running, eventually, image_part, png, running, text


def test_models_in_the_words_of_three_servers(server: Running, model: Model) -> None:
    for path in ("/v1/models", "/models"):
        listed = server.get(path).json
        (entry,) = listed["data"]
        assert listed["object"] == "list"
        assert entry["id"] == server.loaded.name
        assert (entry["object"], entry["owned_by"]) == ("model", "pumice")
        assert isinstance(entry["created"], int)
        assert "image" in entry["architecture"]["input_modalities"]  # Frigate
        assert entry["aliases"] == ["gpt-vision"]
        assert entry["meta"]["n_ctx"] == entry["max_model_len"] == model.context_length
        assert entry["status"]["value"] == "loaded"  # Open WebUI
        assert listed["models"][0]["capabilities"] == ["completion", "multimodal"]
    for name in (server.loaded.name, "gpt-vision", f"{server.loaded.name}:latest"):
        assert server.get(f"/v1/models/{name}").json["id"] == server.loaded.name
    missing = server.get("/v1/models/none/of/these")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


def test_properties(server: Running, model: Model) -> None:
    props = server.get(f"/props?model={server.loaded.name}").json
    assert props["modalities"]["vision"] is True
    assert props["default_generation_settings"]["n_ctx"] == model.context_length
    assert props["media_marker"] == "<image>"
    assert props["chat_template_caps"]["supports_tools"] is False
    assert "message" in props["chat_template"]
    assert props["total_slots"] == 4
    assert "/" not in props["model_path"]
    assert [slot["id"] for slot in server.get("/slots").json] == [0, 1, 2, 3]


def test_tokens_and_texts(server: Running, model: Model) -> None:
    ids = server.post("/tokenize", {"content": "a red star</s>"}).json["tokens"]
    assert 2 not in ids  # what is written is no special token
    assert server.post("/detokenize", {"tokens": ids}).json["content"] == "a red star</s>"
    pieces = server.post("/tokenize", {"content": "a red", "with_pieces": True}).json["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "a red"
    of_vllm = server.post("/tokenize", {"prompt": "a red star"}).json
    assert of_vllm["tokens"] == model.prepare("a red star", raw=True).input_ids[0].tolist()
    assert of_vllm["count"] == len(of_vllm["tokens"])
    image = png()
    messages = [{"role": "user", "content": [image_part(image), text("What?")]}]
    places = [{"role": "user", "content": [{"type": "image"}, text("What?")]}]
    counted = server.post("/tokenize", {"messages": messages}).json
    assert counted["count"] == model.prepare(places, [image]).tokens
    assert counted["max_model_len"] == model.context_length
    for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"):
        assert server.post(path, {"messages": messages}).json["input_tokens"] == counted["count"]
    prompt = server.post("/apply-template", {"messages": messages}).json["prompt"]
    assert prompt == model.pipeline.builder.rendered(places, 1)
    assert prompt.count("<image>") == 1
    assert model.prepare(prompt, [image], raw=True).tokens == counted["count"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "x", "content": "y"}]}, "messages[0].role"),
        ("/apply-template", {"messages": []}, "messages"),
        (
            "/chat/completions/input_tokens",
            {"messages": [{"role": "user", "content": [5]}]},
            "messages[0].content[0]",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
        ("/tokenize", {"content": "x", "model": "none"}, "model"),
    ],
)
def test_tokens_that_make_no_sense(server: Running, path: str, body: Any, param: str) -> None:
    answer = server.post(path, body)
    assert answer.status in (400, 404)
    assert answer.error["param"] == param


def test_health_while_loading_and_after(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = Gate(), moving.load_bundle

    def held(*given: Any) -> Any:
        gate.pass_through()
        return real(*given)

    monkeypatch.setattr(moving, "load_bundle", held)
    with running(pebble_bundle, gate=gate, ready=False) as server:
        assert gate.reached.wait(PATIENCE)
        health = server.get("/health")
        assert health.status == 503
        assert health.json["error"]["message"] == "Loading model"
        assert server.get("/health/live").status == 200
        assert server.get("/ready").json == {"status": "loading"}
        assert server.get("/v1/models").json["data"][0]["status"]["value"] == "loading"
        refused = server.chat("Hi")
        assert (refused.status, refused.error["code"]) == (503, "loading")
        assert refused.headers["retry-after"] == "2"
        gate.open()
        eventually(lambda: server.get("/health").status == 200)
        assert server.get("/ready").status == 200
        assert server.chat("Hi", max_tokens=1).status == 200


def test_an_engine_that_stalls_or_ends_is_not_ready(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = Gate(), Scheduler.step

    def held(self: Scheduler) -> bool:
        gate.pass_through()
        return real(self)

    monkeypatch.setattr(bundles, "STALLED_S", 0.05)
    with running(pebble_bundle, gate=gate) as server:
        assert server.get("/ready").status == 200
        monkeypatch.setattr(Scheduler, "step", held)
        future = server.loaded.engine.submit("Hi", max_new_tokens=1)
        eventually(lambda: server.get("/ready").json["status"] == "the engine is stalled")
        assert server.get("/health").status == 200
        gate.open()
        future.result(PATIENCE)
        eventually(lambda: server.get("/ready").status == 200)
        server.loaded.engine.close()
        answer = server.get("/ready")
        assert (answer.status, answer.json["status"]) == (503, "the engine has ended")
        assert server.chat("Hi").status == 503


def test_metrics_are_prometheus_own(server: Running) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    server.chat([image_part(png("lime")), text("What?")], max_tokens=3)
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in parser.text_string_to_metric_families(answer.body.decode())}
    assert {"pumice_http_requests", "pumice_requests", "pumice_slots", "pumice_queue_depth", "pumice_prompt_tokens",
            "pumice_generated_tokens", "pumice_time_to_first_token_seconds", "process_resident_memory_bytes",
            } <= set(families)  # fmt: skip
    requests = {
        (sample.labels["route"], sample.labels["code"]): sample.value
        for sample in families["pumice_http_requests"].samples
    }
    assert requests[CHAT, "200"] >= 1
    assert {route for route, _ in requests} <= {"other", *(route.path for route in server.app.app.routes)}  # type: ignore[attr-defined]
    histogram = families["pumice_time_to_first_token_seconds"].samples
    count = next(s.value for s in histogram if s.name.endswith("_count"))
    assert count == next(s.value for s in histogram if s.labels.get("le") == "+Inf") >= 1


def test_long_texts_are_none_of_the_event_loops_work(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(name: str) -> None:
        real = getattr(local, name)

        def watching(*of: Any) -> Any:
            seen.append(threading.current_thread().name)
            return real(*of)

        monkeypatch.setattr(local, name, watching)

    for name in ("read_json", "_tokenized", "_detokenized", "_rendered", "_count"):
        watched(name)
    messages = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, body in {
        "/tokenize": {"content": "Hi"},
        "/detokenize": {"tokens": [5]},
        "/apply-template": messages,
        "/v1/chat/completions/input_tokens": messages,
    }.items():
        assert server.post(path, json.dumps(body).encode()).status == 200
    assert len(seen) == 8
    assert all(name.startswith("pumice-serve-check") for name in seen)
