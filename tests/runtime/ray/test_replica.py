"""What runs in a replica, without Ray: its app below a prefix, its start, its health, its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pumice import BundleError, EngineClosedError
from pumice.ray.concurrency import Concurrency
from pumice.ray.replica import Replica
from pumice.serve.settings import Settings
from tests.runtime.serve.running import question


def settings_of(bundle: Path, **settings: Any) -> Settings:
    return Settings(bundle=bundle, **{"threads": 1, "slots": 2, "device": "cpu", **settings})


async def asked(app: Any, path: str, body: Any = None, *, root: str = "") -> tuple[int, dict[str, str], Any]:
    """A request as Ray's proxy hands it on: the prefix is in `path` and in `root_path`. A body `...` does not come."""
    data = b"" if body in (None, ...) else json.dumps(body).encode()
    headers = [
        (b"host", b"localhost"),
        (b"content-length", str(len(data)).encode()),
        (b"x-request-id", b"of-ray"),
    ]
    scope = {
        "type": "http",
        "method": "GET" if body is None else "POST",
        "path": path,
        "root_path": root,
        "headers": headers,
        "query_string": b"",
    }
    incoming = [] if body is ... else [{"type": "http.request", "body": data, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    first, *rest = sent
    text = b"".join(message.get("body", b"") for message in rest)
    return first["status"], {k.decode(): v.decode() for k, v in first["headers"]}, json.loads(text)


async def ended(app: Any) -> list[str]:
    """The app's lifespan, as Ray runs it."""
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    return sent


def test_a_replica_from_its_start_to_its_end(pebble_bundle: Path) -> None:
    async def run() -> None:
        replica = Replica(settings_of(pebble_bundle))
        app = await replica.__serve_build_asgi_app__()
        name = pebble_bundle.name
        for root in ("", "/pebble"):
            status, headers, models = await asked(app, f"{root}/v1/models", root=root)
            assert (status, models["data"][0]["id"]) == (200, name), "it is loaded from the start"
            assert "x-request-id" not in headers, "Ray adds it"
            assert (await asked(app, f"{root}/ready", root=root))[0] == 200
        body = question(max_tokens=3)
        status, _, answer = await asked(app, "/pebble/v1/chat/completions", body, root="/pebble")
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        status, _, error = await asked(app, "/pebble/api/chat", {}, root="/pebble")
        assert (status, list(error)) == (400, ["error"]), "the dialect goes by the path below the prefix"
        assert (await asked(app, "/pebble/nothing", root="/pebble"))[0] == 404
        await replica.check_health()
        assert await ended(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        with pytest.raises(EngineClosedError, match="has ended"):
            await replica.check_health()

    asyncio.run(run())


def test_several_bundles_come_and_go_within_a_replica(pebble_bundle: Path, tmp_path: Path) -> None:
    async def run() -> None:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.symlink_to(pebble_bundle)
        replica = Replica(settings_of(folders[0], others=(folders[1],)))
        app = await replica.__serve_build_asgi_app__()
        for name in ("two", "one"):
            body = question(max_tokens=2, model=name)
            status, _, answer = await asked(app, "/v1/chat/completions", body)
            assert (status, answer["model"]) == (200, name)
            await replica.check_health()
        await ended(app)

    asyncio.run(run())


def test_a_bundle_that_cannot_be_loaded_fails_the_start(tmp_path: Path) -> None:
    async def run() -> None:
        await Replica(settings_of(tmp_path / "missing")).__serve_build_asgi_app__()

    with pytest.raises(BundleError, match="missing"):
        asyncio.run(run())


def test_health_goes_by_the_steps_of_the_engine(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        replica = Replica(settings_of(pebble_bundle, deadline=100.0))
        app = await replica.__serve_build_asgi_app__()
        (loaded,) = app.front.server.bundles.loaded  # type: ignore[attr-defined]
        for seconds in (0.0, 99.0):
            monkeypatch.setattr(type(loaded.engine), "stalled_s", seconds)
            await replica.check_health()
        monkeypatch.setattr(type(loaded.engine), "stalled_s", 101.0)
        with pytest.raises(EngineClosedError, match="no step for 101 s"):
            await replica.check_health()
        await ended(app)

    asyncio.run(run())


def test_a_request_that_ray_cancels_is_given_up(pebble_bundle: Path) -> None:
    """Ray cancels what is under way for a client that has left."""

    async def run() -> None:
        replica = Replica(settings_of(pebble_bundle))
        app = await replica.__serve_build_asgi_app__()
        server = app.front.server  # type: ignore[attr-defined]
        task = asyncio.ensure_future(asked(app, "/v1/chat/completions", body=..., root=""))
        while not server.admission.taken:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not server.admission.taken
        assert dict(server.tally.requests) == {("/v1/chat/completions", 499): 1}
        await ended(app)

    asyncio.run(run())


def test_whom_ray_gives_a_place_finds_one(pebble_bundle: Path) -> None:
    """Ray gives a replica of 8 slots 12 requests, whatever may wait at its proxies."""

    async def run() -> None:
        admission = Replica(settings_of(pebble_bundle, slots=8, max_queue=1))._front.server.admission
        with ExitStack() as places:
            for _ in range(Concurrency(slots=8).max_ongoing_requests):
                places.enter_context(admission.place(10))
            assert admission.taken == 12

    asyncio.run(run())
