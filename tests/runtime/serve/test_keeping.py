"""How long models stay: Ollama's `keep_alive`, `--idle-unload`, and one bundle alone, which stays for ever."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pumice.serve.keeping import keep_seconds
from pumice.serve.refusals import RefusalError
from tests.runtime.serve.running import Running, eventually, running
from tests.runtime.serve.test_several import FOR_ONE, loads, statuses


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
        (-0.5, math.inf),
        (300, 300.0),
        (1.5, 1.5),
        ("300", 300.0),
        ("300s", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2m0.5s", 120.5),
        ("100ms", 0.1),
        ("500us", 0.0005),
    ],
)
def test_durations_as_ollama_reads_them(value: Any, seconds: float | None) -> None:
    assert keep_seconds(value) == seconds


@pytest.mark.parametrize("value", ["soon", "5 m", "m", "5d", "5m!", "1h-5m", "nan", True, [], {}, "5" * 200])
def test_what_is_no_duration(value: Any) -> None:
    with pytest.raises(
        RefusalError, match=r"keep_alive is .*, expected seconds, or a duration such as 5m"
    ) as refused:
        keep_seconds(value)
    assert (refused.value.status, refused.value.param) == (400, "keep_alive")


def generate(server: Running, model: str, **fields: Any) -> Any:
    body = {"model": model, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}, **fields}
    answer = server.post("/api/generate", body)
    assert answer.status == 200, answer.body
    return answer.json


def expiry(server: Running) -> str:
    (there,) = server.get("/api/ps").json["models"]
    return str(there["expires_at"])


def test_requests_say_how_long_their_model_stays(folder: Path) -> None:
    with running(folder, memory=FOR_ONE) as server:
        generate(server, "alpha")
        assert expiry(server).startswith("2318-")  # nothing else was said
        before = time.time()
        generate(server, "alpha", keep_alive="5m")
        said = datetime.fromisoformat(expiry(server)).timestamp()
        assert before + 299 < said < time.time() + 301
        generate(server, "alpha")
        assert not expiry(server).startswith("2318-")  # as was said before
        generate(server, "alpha", keep_alive=-1)
        assert expiry(server).startswith("2318-")
        assert statuses(server)["alpha"] == "loaded"
        server.chat("Hi", model="alpha", max_tokens=1, keep_alive="0s")
        eventually(lambda: statuses(server)["alpha"] == "sleeping")
        assert server.get("/props?model=alpha").json["is_sleeping"]
        assert server.get("/api/ps").json == {"models": []}
        assert server.chat("Hi", model="alpha", max_tokens=1, keep_alive="x").error["param"] == "keep_alive"
        assert generate(server, "alpha", keep_alive=-1)["done"]  # and is woken
        assert loads(server) == 2


def test_requests_without_a_question_load_and_unload(folder: Path) -> None:
    """What `ollama run` and `ollama stop` send."""
    with running(folder, memory=FOR_ONE) as server:
        answer = server.post("/api/generate", {"model": "beta", "keep_alive": "1h"}).json
        assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "load", "beta:latest")
        assert statuses(server)["beta"] == "loaded"
        answer = server.post("/api/chat", {"model": "beta", "messages": [], "keep_alive": 0}).json
        assert (answer["done"], answer["done_reason"]) == (True, "unload")
        eventually(lambda: statuses(server)["beta"] == "unloaded")
        assert (
            server.post("/api/generate", {"model": "beta", "keep_alive": 0}).json["done_reason"] == "unload"
        )
        assert server.post("/api/generate", {"model": "none", "keep_alive": 0}).status == 404
        assert loads(server) == 1


def test_idle_models_are_unloaded_if_that_is_asked_for(folder: Path) -> None:
    """One bundle alone, too."""
    for bundle in (folder, folder / "alpha"):
        with running(bundle, idle_unload=0.01, memory=FOR_ONE if bundle == folder else None) as server:
            assert server.chat("Hi", model="alpha", max_tokens=1).status == 200
            eventually(lambda: statuses(server)["alpha"] == "sleeping")
            assert server.get("/health").status == server.get("/ready").status == 200
            before = loads(server)
            stream = server.chat("Hi", model="alpha", max_tokens=1, stream=True, keep_alive=-1)
            assert stream.events[-1] == "[DONE]"
            assert loads(server) == before + 1
            assert expiry(server).startswith("2318-")


def test_one_bundle_alone_stays(pebble_bundle: Path) -> None:
    with running(pebble_bundle) as server:
        name = server.loaded.name
        for keep in (0, "1ms", -1):
            generate(server, name, keep_alive=keep)
            assert (
                server.post("/api/generate", {"model": name, "keep_alive": keep}).json["done_reason"]
                == "load"
            )
        assert expiry(server).startswith("2318-")
        assert loads(server) == 1
        assert server.post("/models/unload", {"model": name}).json == {"success": True}  # but by request
        eventually(lambda: statuses(server)[name] == "unloaded")
        assert (server.get("/health").status, server.get("/ready").status) == (200, 200)
        assert server.chat("Hi", max_tokens=1).status == 200
        assert loads(server) == 2


def test_by_ollamas_own_client(folder: Path) -> None:
    """What it sends, and what it reads of models that are loaded and of others."""
    ollama = pytest.importorskip("ollama")
    with running(folder, memory=FOR_ONE) as server:
        client, began = ollama.Client(host=server.url), time.time()
        try:
            assert [model.model for model in client.list().models] == [
                "alpha:latest",
                "beta:latest",
                "gamma:latest",
            ]
            for name in ("alpha", "beta"):
                asked = client.chat(
                    name, messages=[{"role": "user", "content": "Hi"}], keep_alive="5m", stream=True
                )
                *_, last = asked
                assert (last.done, last.model) == (True, f"{name}:latest")
            (there,) = client.ps().models
            assert there.model == "beta:latest"
            assert there.size == server.loaded.nbytes
            assert there.expires_at is not None
            assert there.expires_at.timestamp() - began > 299
            assert client.generate("beta", keep_alive=0).done_reason == "unload"
            eventually(lambda: not client.ps().models)
        finally:
            client._client.close()
