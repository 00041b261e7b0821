"""Several bundles behind one server: which are in memory, what their clients see, and what is left behind."""

from __future__ import annotations

import json
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import BundleError, InsufficientMemoryError
from pumice.model import Model
from pumice.serve import moving, residence
from pumice.serve.lifecycle import serve
from pumice.serve.loaded import Loaded
from pumice.serve.settings import Settings
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Running,
    eventually,
    image_part,
    png,
    question,
    received,
    running,
    text,
)
from tests.runtime.serve.test_leaving import connected, head, hold

MIB = 2**20
FOR_ONE = 150 * MIB
"""Of memory; pebble with four slots takes 130 with the process, and 50 more for each other one."""
NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def held_loading(gate: Gate, patch: pytest.MonkeyPatch) -> None:
    real = moving.load_bundle

    def held(*given: Any) -> Loaded:
        gate.pass_through()
        return real(*given)

    patch.setattr(moving, "load_bundle", held)


def statuses(server: Running) -> dict[str, str]:
    """Of all models, as clients see them."""
    return {each["id"]: each["status"]["value"] for each in server.get("/models").json["data"]}


def loads(server: Running) -> int:
    return sum(tenant.loads for tenant in server.app.server.bundles.tenants)


def waiting(server: Running) -> int:
    return sum(len(tenant.residence.waiting) for tenant in server.app.server.bundles.tenants)


def idle(server: Running) -> bool:
    return not any(tenant.residence.leases for tenant in server.app.server.bundles.tenants)


def test_fifty_requests_of_three_models_take_three_loads(
    folder: Path, model: Model, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one: those that wait are answered together, and nothing of a model stays behind it."""
    asked = [image_part(png("red")), text("What is this?")]
    places = [{"role": "user", "content": [{"type": "image"}, text("What is this?")]}]
    expected = model.generate(places, [png("red")], max_new_tokens=12).text
    together: list[int] = []
    kept: list[weakref.ref[Any]] = []
    real = moving.load_bundle

    def counted(*given: Any) -> Loaded:
        gate.pass_through()
        assert [ref() for ref in kept] == [None] * len(kept), "an earlier model is in memory still"
        loaded = real(*given)
        pipeline = loaded.model.pipeline
        kept.extend(map(weakref.ref, (pipeline, pipeline.decoder.sessions, pipeline.encoder)))
        together.append(
            80 * MIB + loaded.nbytes + sum(other.nbytes for other in server.app.server.bundles.loaded)
        )
        return loaded

    monkeypatch.setattr(moving, "load_bundle", counted)
    with running(folder, gate=gate, memory=FOR_ONE) as server, ThreadPoolExecutor(50) as pool:
        assert set(statuses(server).values()) == {"unloaded"}
        answers = [
            pool.submit(server.chat, asked, model=NAMES[i % 3], max_tokens=12, stream=i % 2 == 0)
            for i in range(50)
        ]
        eventually(lambda: waiting(server) == 50)
        gate.open()
        for i, future in enumerate(answers):
            answer = future.result(PATIENCE)
            assert answer.status == 200
            if i % 2:
                assert (answer.text, answer.json["model"]) == (expected, NAMES[i % 3])
            else:
                *chunks, done = answer.events
                content = (chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
                assert ("".join(content), done) == (expected, "[DONE]")
                assert {chunk["model"] for chunk in chunks} == {NAMES[i % 3]}
        assert loads(server) == 3
        assert len(together) == 3
        assert max(together) <= FOR_ONE
        finished = [
            tenant.counters.finished for tenant in server.app.server.bundles.tenants if tenant.counters
        ]
        assert sorted(finished) == [16, 17, 17]


def test_models_stay_beside_each_other_while_there_is_room(folder: Path) -> None:
    """With memory for two, whoever was not asked for longest goes."""
    with running(folder, memory=200 * MIB) as server:
        for name in ("alpha", "beta", "alpha", "gamma", "alpha"):
            assert server.chat("Hi", model=name, max_tokens=1).status == 200
        assert statuses(server) == {"alpha": "loaded", "beta": "unloaded", "gamma": "loaded"}
        assert loads(server) == 3


def test_what_is_known_of_models_that_are_not_loaded(folder: Path, model: Model) -> None:
    with running(folder, memory=FOR_ONE, alias=("sharp=beta", "gpt-vision=alpha")) as server:
        assert server.get("/health").status == server.get("/ready").status == 200
        entries = server.get("/v1/models").json["data"]
        assert [entry["id"] for entry in entries] == list(NAMES)
        assert [entry["aliases"] for entry in entries] == [["gpt-vision"], ["sharp"], []]
        context = entries[1]["max_model_len"]
        assert {entry["meta"]["n_ctx"] for entry in entries} == {context}
        assert context < model.context_length  # what memory for one has room for
        tags = server.get("/api/tags").json["models"]
        assert [each["name"] for each in tags] == [f"{name}:latest" for name in NAMES]
        assert server.post("/api/show", {"model": "sharp"}).json["model_info"]["general.basename"] == "beta"
        props = server.get("/props?model=gamma").json
        assert props["default_generation_settings"]["n_ctx"] == context
        assert len(server.get("/slots?model=gamma").json) == props["total_slots"] == 4
        assert server.get("/api/ps").json == {"models": []}
        assert loads(server) == 0
        assert server.chat("Hi", model="sharp:latest", max_tokens=1).json["model"] == "beta"
        assert server.get("/v1/models/beta").json["max_model_len"] == server.loaded.context == context
        (there,) = server.get("/api/ps").json["models"]
        assert (there["name"], there["size"]) == ("beta:latest", server.loaded.nbytes)
        assert 45 * MIB < there["size"] <= FOR_ONE - 80 * MIB
        assert server.post("/tokenize", {"model": "gpt-vision", "content": "Hi"}).json["tokens"]
        assert statuses(server) == {"alpha": "loaded", "beta": "unloaded", "gamma": "unloaded"}
        for path, body in ((CHAT, question("Hi", model="delta")), ("/models/load", {"model": "delta"})):
            answer = server.post(path, body)
            assert (answer.status, answer.error["code"], answer.error["param"]) == (
                404,
                "model_not_found",
                "model",
            )
            assert all(repr(name) in answer.error["message"] for name in (*NAMES, "sharp"))
        assert server.chat("Hi", max_tokens=1).json["model"] == "alpha"  # the first, where none is named


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_a_stream_lives_while_its_model_is_loaded(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    held_loading(gate, monkeypatch)
    with running(folder, gate=gate, memory=FOR_ONE, keep_alive=0.05) as server:
        if dialect == "openai":
            sent, alive, end = head(body_of("beta", stream=True)), b": keep-alive\n\n", b"data: [DONE]"
        else:
            sent = head(json.dumps({"model": "beta", "prompt": "Hi"}).encode()).replace(
                CHAT.encode(), b"/api/generate"
            )
            alive, end = b'"response":""', b'"done":true'
        with connected(server, sent) as connection:
            data = b""
            while data.count(alive) < 3:
                data += connection.recv(4096)
            assert data.startswith(b"HTTP/1.1 200 OK")
            assert gate.reached.is_set()
            assert statuses(server)["beta"] == "loading"
            assert server.get("/health").status == server.get("/ready").status == 200
            gate.open()
            assert end in received(connection, end)


def body_of(model: str, **fields: Any) -> bytes:
    return json.dumps(question("Hi", model=model, max_tokens=3, **fields)).encode()


def test_what_is_wrong_with_a_request_is_told_in_its_stream(folder: Path) -> None:
    with running(folder, memory=FOR_ONE) as server:
        (event,) = server.chat("Hi", model="beta", stream=True, response_format={"type": "x"}).events
        assert event["error"]["param"] == "response_format.type"
        assert server.chat("Hi", model="beta", response_format={"type": "x"}).status == 400  # it is there now
        for name, path, field in (
            ("alpha", "/v1/completions", "prompt"),
            ("gamma", "/v1/responses", "input"),
        ):
            answer = server.post(path, {"model": name, "stream": True, field: "too long " * 2000})
            (event,) = answer.events
            assert (answer.status, event["error"]["code"]) == (200, "context_length_exceeded")
            assert event["error"]["param"] == field  # by the route's own name
        eventually(lambda: idle(server))


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_while_their_model_is_loaded(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    held_loading(gate, monkeypatch)
    with running(folder, gate=gate, memory=FOR_ONE) as server:
        leavers = [
            connected(server, head(body_of(name, stream=stream))) for name in ("alpha", "alpha", "beta")
        ]
        stays = connected(server, head(body_of("alpha", stream=True)))
        eventually(lambda: waiting(server) == 4)
        for leaver in leavers:
            leaver.close()
        eventually(lambda: waiting(server) == 1)
        eventually(lambda: server.app.server.admission.taken == 1)
        gate.open()
        assert b"data: [DONE]" in received(stays, b"data: [DONE]")
        stays.close()
        eventually(lambda: idle(server))
        assert server.loaded.engine.counters.finished == 1
        assert statuses(server) == {"alpha": "loaded", "beta": "unloaded", "gamma": "unloaded"}
        assert loads(server) == 1


def test_a_model_at_work_is_answered_to_the_end_before_it_goes(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "TURN_S", 0.0)
    with running(folder, gate=gate, memory=FOR_ONE) as server, ThreadPoolExecutor(4) as pool:
        assert server.chat("Hi", model="alpha", max_tokens=1).status == 200
        hold("decoding", gate, monkeypatch)
        first = pool.submit(server.chat, "Hi", model="alpha", max_tokens=30, ignore_eos=True)
        assert gate.reached.wait(PATIENCE)
        other = pool.submit(server.chat, "Hi", model="beta", max_tokens=2)
        eventually(lambda: server.app.server.bundles.tenants[0].residence.called)
        later = pool.submit(server.chat, "Hi", model="alpha", max_tokens=2)  # waits until it is there again
        eventually(lambda: waiting(server) == 2)
        assert statuses(server) == {"alpha": "loaded", "beta": "loading", "gamma": "unloaded"}
        gate.open()
        assert first.result(PATIENCE).json["usage"]["completion_tokens"] == 30
        assert other.result(PATIENCE).json["model"] == "beta"
        assert later.result(PATIENCE).json["model"] == "alpha"
        assert loads(server) == 3


def test_models_are_loaded_and_unloaded_by_request(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's routes, with its words; both return at once."""
    with running(folder, gate=gate, memory=FOR_ONE, api_key="sk-1") as server, ThreadPoolExecutor(2) as pool:
        key = {"Authorization": "Bearer sk-1"}

        def ask(path: str, body: Any) -> Any:
            return server.post(path, body, key)

        def status(name: str) -> str:
            value: str = server.get(f"/models/{name}", key).json["status"]["value"]
            return value

        for path in ("/models", "/models/load", "/models/unload"):
            answer = server.request("POST" if "load" in path else "GET", path, {"model": "beta"})
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert ask("/models/load", {"model": "beta"}).json == {"success": True}
        eventually(lambda: status("beta") == "loaded")
        answer = ask("/models/load", {"model": "beta"})
        assert (answer.status, answer.error["message"]) == (400, "model is already running")
        hold("decoding", gate, monkeypatch)
        body = question("Hi", model="beta", max_tokens=9, ignore_eos=True)
        answering = pool.submit(ask, CHAT, body)
        assert gate.reached.wait(PATIENCE)
        assert ask("/models/unload", {"model": "beta"}).json == {"success": True}
        assert status("beta") == "loaded"
        gate.open()
        assert answering.result(PATIENCE).json["usage"]["completion_tokens"] == 9
        eventually(lambda: status("beta") == "unloaded")
        answer = ask("/models/unload", {"model": "beta"})
        assert (answer.status, answer.error["message"]) == (400, "model is not running")
        for wrong in ({}, {"model": 5}, b"{"):
            assert ask("/models/load", wrong).status == 400


def damaged(pebble: Path, folder: Path) -> None:
    """A good bundle, one without a sound manifest, and one whose weights are not what they were."""
    (folder / "good").symlink_to(pebble, target_is_directory=True)
    (folder / "torn").mkdir(parents=True)
    (folder / "torn" / "manifest.json").write_text("{")
    shutil.copytree(pebble, folder / "rotten")
    weights = next((folder / "rotten").rglob("decoder*data*"))
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)


def test_a_broken_bundle_harms_no_other(
    pebble_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged(pebble_bundle, tmp_path)
    with running(tmp_path, memory=200 * MIB) as server, caplog.at_level("INFO", "pumice.serve"):
        torn = server.get("/models/torn").json["status"]
        assert (torn["value"], torn["failed"]) == ("unloaded", True)
        for name, stream in (("torn", True), ("rotten", False), ("rotten", True)):
            answer = server.chat("Hi", model=name, stream=stream)
            assert (answer.status, answer.error["code"]) == (503, "model_failed")
            assert answer.headers["x-should-retry"] == "false"
            assert str(tmp_path) not in answer.body.decode()
        assert str(tmp_path) not in server.get("/v1/models").body.decode()
        assert "was changed: its SHA-256 is not the manifest's" in caplog.text
        assert server.get("/models/rotten").json["status"]["failed"]
        assert [each["name"] for each in server.get("/api/tags").json["models"]] == [
            "good:latest",
            "rotten:latest",
        ]
        assert server.chat("Hi", model="good", max_tokens=1).status == 200
        assert server.get("/ready").status == 200
        shutil.rmtree(tmp_path / "rotten")
        (tmp_path / "rotten").symlink_to(pebble_bundle, target_is_directory=True)
        assert server.chat("Hi", model="rotten").status == 503  # it is looked at again when that is asked for
        assert server.post("/models/load", {"model": "rotten"}).json == {"success": True}
        assert server.chat("Hi", model="rotten", max_tokens=1).status == 200


def test_there_must_be_one_that_can_be_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"), running(tmp_path):
        pass


def test_what_can_never_fit_is_refused(folder: Path) -> None:
    """And is not waited for: a client that tries again would find the same."""
    with running(folder, memory=100 * MIB) as server:
        for stream in (False, True):
            answer = server.chat("Hi", model="beta", stream=stream)
            assert (answer.status, answer.error["code"]) == (503, "no_memory")
            assert answer.headers["x-should-retry"] == "false"
            assert "MiB" in answer.error["message"]
        assert server.post("/models/load", {"model": "beta"}).status == 503
    with pytest.raises(InsufficientMemoryError, match="'alpha' needs 1"):
        serve(Settings(bundle=folder / "alpha", memory=90 * MIB, port=0, slots=4))


def test_memory_that_is_short_for_now(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, short = moving.load_bundle, [True]

    def sometimes(*given: Any) -> Loaded:
        if short.pop():
            raise InsufficientMemoryError("the keys and values need 9 MiB")
        return real(*given)

    monkeypatch.setattr(moving, "load_bundle", sometimes)
    with running(folder, memory=FOR_ONE) as server:
        answer = server.chat("Hi", model="beta", max_tokens=1)
        assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (
            503,
            "no_memory",
            "false",
        )
        assert statuses(server)["beta"] == "unloaded"
        short.append(False)
        assert server.chat("Hi", model="beta", max_tokens=1).status == 200


@pytest.mark.parametrize("in_time", [True, False])
def test_the_end_while_a_model_is_loaded(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    held_loading(gate, monkeypatch)
    others = set(threading.enumerate())
    drain = PATIENCE if in_time else 0.01
    with running(folder, gate=gate, memory=FOR_ONE, drain=drain) as server:
        asking = [connected(server, head(body_of(name, stream=stream))) for name, stream in
                  (("alpha", True), ("alpha", False), ("beta", True), ("beta", False))]  # fmt: skip
        eventually(lambda: waiting(server) == 4)
        server.ask_to_end()
        eventually(lambda: server.app.server.draining)
        if in_time:
            assert (server.chat("Hi", model="alpha").status, server.get("/ready").status) == (503, 503)
            gate.open()
        ends = [b"data: [DONE]" if in_time else b"}}", b'"timings"' if in_time else b"}}"] * 2
        for i, (connection, end) in enumerate(zip(asking, ends, strict=True)):
            data = received(connection, end)
            assert end in data
            if not in_time:
                assert b'"code":"draining"' in data
                assert data.startswith(b"HTTP/1.1 200" if i % 2 == 0 else b"HTTP/1.1 503")
            connection.close()
        gate.open()
        server.thread.join(PATIENCE)
        assert not server.failure
        left = set(threading.enumerate()) - others
        assert not [thread for thread in left if thread.name.startswith("pumice-engine")]


def test_an_engine_that_has_ended_is_made_anew(folder: Path) -> None:
    with running(folder, memory=FOR_ONE) as server:
        assert server.chat("Hi", model="beta", max_tokens=1).status == 200
        server.loaded.engine.close()
        assert server.get("/ready").status == 200
        assert server.chat("Hi", model="beta", max_tokens=1).status == 200
        assert loads(server) == 2


def test_metrics_are_of_each_model(folder: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with running(folder, memory=FOR_ONE) as server:
        for name in ("alpha", "beta", "beta"):
            server.chat("Hi", model=name, max_tokens=2, ignore_eos=True)
        page = server.get("/metrics").body.decode()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["pumice_requests_total", "alpha", "finished"] == 1  # whose engine is gone
    assert samples["pumice_requests_total", "beta", "finished"] == 2
    assert samples["pumice_generated_tokens_total", "beta"] == 4
    assert samples["pumice_time_to_first_token_seconds_count", "beta"] == 2
    assert samples["pumice_model_loads_total", "alpha"] == 1
    assert (samples["pumice_model_loaded", "alpha"], samples["pumice_model_loaded", "beta"]) == (0, 1)
    assert samples["pumice_model_memory_bytes", "beta"] > 45 * MIB
    assert samples["pumice_memory_budget_bytes",] == FOR_ONE
    assert ("pumice_requests_total", "finished", "gamma") not in samples
