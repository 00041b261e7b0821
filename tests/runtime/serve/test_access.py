"""Keys, hosts, origins: every route, every trick."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pumice.errors import UsageError
from pumice.serve.access import PUBLIC, Access, read_keys
from pumice.serve.refusals import RefusalError
from pumice.serve.settings import Settings
from tests.runtime.serve.running import CHAT, Running, running
from tests.serving import access as tricks
from tests.serving.access import routes

KEY, OTHER = "sk-first", "sk-second"


@pytest.fixture(scope="module")
def locked(pebble_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# keys\n\nann {KEY}\n{OTHER}\n")
    with running(pebble_bundle, api_key_file=file) as server:
        yield server


def test_every_route_that_is_not_public_needs_a_key(locked: Running, pebble_bundle: Path) -> None:
    for method, path in routes(pebble_bundle):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": "Bearer "},
            {"X-API-Key": KEY[:-1]},
        ):
            answer = locked.request(method, path, b"{}" if method == "POST" else None, headers)
            if path in PUBLIC:
                assert answer.status == 200
                continue
            assert answer.status == 401, (method, path, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
            if not path.startswith("/api/"):
                assert answer.error["code"] == "invalid_api_key"
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": f"bearer {OTHER}"},
            {"X-API-Key": KEY},
        ):
            assert locked.request(method, path, b"{}" if method == "POST" else None, headers).status != 401


@pytest.mark.parametrize(
    "path",
    ["/v1/models/", "//v1/models", "/v1/models?x=/health", "/v1/models#/health", "/v1/../v1/models",
     "/health/../v1/models", "/v1/%6dodels", "/v1/models;/health", "/V1/models", "/health%2f..%2fv1/models",
     "http://localhost/v1/models", "http://x/health/../v1/models"],
)  # fmt: skip
def test_no_path_leads_around_the_key(locked: Running, path: str) -> None:
    answer = locked.get(path)
    assert answer.status in (400, 401, 404, 421), answer.body
    assert b'"object"' not in answer.body


def test_no_trick_leads_around_a_check_on_any_route(pebble_bundle: Path) -> None:
    """Of Host, of Origin, of the path: with the right key those are refused that ask for another site."""
    with running(pebble_bundle, api_key=tricks.KEY) as server:
        all_routes = routes(pebble_bundle)
        wrong, tried = asyncio.run(tricks.keys(server.port, all_routes))
        passed, more = asyncio.run(tricks.around(server.port, all_routes))
    assert not wrong
    assert not passed
    assert tried == len(tricks.KEYS) * len(all_routes)
    assert more > 20 * len(all_routes)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("localhost", True), ("127.0.0.1", True), ("[::1]:8080", True), ("LOCALHOST:80", True), ("my.home:8080", True),
     ("evil.example", False), ("localhost.evil.example", False), ("localhost:80@evil.example", False),
     ("evil/?", False), ("127.0.0.1/health?", False), ("", False), ("192.168.1.5", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_a_local_server_answers_to_its_own_names(host: str, allowed: bool, tmp_path: Path) -> None:
    access = Access(Settings(bundle=tmp_path, allow_host=("my.home",)), {})
    scope = {"method": "GET", "path": "/v1/models", "headers": [(b"host", host.encode())]}
    if allowed:
        assert access.check(scope) == "-"
    else:
        with pytest.raises(RefusalError) as refused:
            access.check(scope)
        assert refused.value.status == 421
    twice = {
        "method": "GET",
        "path": "/health",
        "headers": [(b"host", b"localhost"), (b"host", b"localhost")],
    }
    with pytest.raises(RefusalError):
        access.check(twice)


def test_a_foreign_host_over_a_socket(server: Running) -> None:
    answer = server.get("/v1/models", {"Host": "evil.example"})
    assert (answer.status, answer.error["code"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil", "https://127.0.0.1:1"]
)
def test_web_pages_of_other_origins_may_not_ask(server: Running, origin: str) -> None:
    answer = server.post(CHAT, b"{}", {"Origin": origin, "Content-Type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (403, "forbidden_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.get("/health", {"Origin": server.url}).status == 200


def test_an_origin_that_is_allowed(pebble_bundle: Path) -> None:
    page, key = "https://chat.example", {"X-API-Key": KEY}
    with running(pebble_bundle, allow_origin=(page,), api_key=KEY, ready=False) as server:
        asked = server.request(
            "OPTIONS", CHAT, None, {"Origin": page, "Access-Control-Request-Method": "POST"}
        )
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == page
        assert "authorization" in asked.headers["access-control-allow-headers"]
        answer = server.get("/v1/models", {"Origin": page, **key})
        assert answer.headers["access-control-allow-origin"] == page
        assert server.get("/v1/models", {"Origin": "https://other.example", **key}).status == 403
        assert server.request("OPTIONS", CHAT, None, {"Origin": "https://other.example"}).status == 403
        assert server.request("OPTIONS", CHAT).status == 401


def test_labels_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("ann a\n\n  # none\nb\n")
    keys = read_keys(Settings(bundle=tmp_path, api_key_file=file, api_key="c"))
    assert list(keys) == ["key1", "ann", "key3"]
    access = Access(Settings(bundle=tmp_path), keys)

    def label(key: str) -> str:
        return access.check(
            {"method": "GET", "path": "/v1/models", "headers": [(b"x-api-key", key.encode())]}
        )

    assert [label(key) for key in "abc"] == ["ann", "key3", "key1"]


@pytest.mark.parametrize("content", ["", "# only\n", "one two three\n", None])
def test_files_without_keys(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError):
        read_keys(Settings(bundle=tmp_path, api_key_file=file))
