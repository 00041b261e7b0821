"""Every route with every kind of key, and with every trick that has led around a server's checks somewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pumice.serve.access import PUBLIC
from pumice.serve.app import make_app
from pumice.serve.settings import Settings
from tests.runtime.serve.running import Answer, running
from tests.serving.bounds import Bounds
from tests.serving.client import ask
from tests.serving.figures import Figure

KEY = "sk-first"
KEYS: dict[str, dict[str, str]] = {
    "none": {},
    "wrong": {"Authorization": "Bearer wrong"},
    "another scheme": {"Authorization": f"Basic {KEY}"},
    "Bearer": {"Authorization": f"Bearer {KEY}"},
    "X-API-Key": {"X-API-Key": KEY},
}
REFUSED = {400, 401, 403, 404, 405, 421}
HEADERS: dict[str, dict[str, str]] = {
    "another host": {"Host": "evil.example"},
    "host that begins as ours": {"Host": "localhost.evil.example"},
    "host with a path": {"Host": "x/health?"},
    "our host with a path": {"Host": "localhost/health?"},
    "host behind a user": {"Host": "localhost:80@evil.example"},
    "no host": {"Host": ""},
    "address of the network": {"Host": "192.168.1.5"},
    "forwarded host": {"Host": "evil.example", "X-Forwarded-Host": "localhost"},
    "another origin": {"Origin": "http://evil.example"},
    "null origin": {"Origin": "null"},
    "origin that begins as ours": {"Origin": "http://localhost.evil.example"},
    "another port's origin": {"Origin": "http://localhost:1"},
}
"""Refused even with the right key."""
DISGUISES: dict[str, dict[str, str]] = {
    "forwarded from here": {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    "original address": {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"},
}
"""Of no effect: without a key they are refused."""
PATHS: dict[str, str] = {
    "two slashes": "/{path}",
    "slash behind": "{path}/",
    "question": "{path}?x=/health",
    "parameter": "{path};/health",
    "from a public one": "/health/..{path}",
    "from a public one, escaped": "/health%2f..{path}",
    "absolute": "http://localhost/health/..{path}",
    "dot": "/.{path}",
    "zero byte": "{path}%00/health",
    "fragment": "{path}#/health",
}
"""Refused without a key, or there is no such route."""
TRICKS = len(HEADERS) + len(DISGUISES) + len(PATHS)


def routes(bundle: Path) -> list[tuple[str, str]]:
    """Method and path of every route."""
    app: Any = make_app(Settings(bundle=bundle)).app
    return [
        (method, route.path.replace("{name:path}", "x"))
        for route in app.routes
        for method in sorted(route.methods - {"HEAD"})
    ]


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """The table, for every route that there is."""
    all_routes = routes(bundle)
    with running(bundle, api_key=KEY) as server:
        wrong, tried = asyncio.run(keys(server.port, all_routes))
        passed, tricks = asyncio.run(around(server.port, all_routes))
    yield Figure(check="access", what="routes", value=len(all_routes))
    yield Figure(check="access", what=f"requests with {len(KEYS)} kinds of keys", value=tried)
    yield Figure(
        check="access",
        what="… answered though they should not be, or not though they should",
        value=len(wrong),
        most=0,
    )
    yield Figure(check="access", what=f"requests with {TRICKS} tricks of Host, Origin and path", value=tricks)
    yield Figure(check="access", what="… that came through", value=len(passed), most=0)
    for each in [*wrong, *passed][:5]:
        yield Figure(check="access", what=each, value=1, most=0)


async def keys(port: int, all_routes: list[tuple[str, str]]) -> tuple[list[str], int]:
    """What was answered otherwise than it should have been, and how many were tried."""
    wrong, tried = [], 0
    for method, path in all_routes:
        for name, headers in KEYS.items():
            answer = await _asked(port, method, path, headers)
            tried += 1
            refused = answer.status == 401
            if refused != (path not in PUBLIC and name not in ("Bearer", "X-API-Key")):
                wrong.append(f"{method} {path}, key: {name}: {answer.status}")
    return wrong, tried


async def around(port: int, all_routes: list[tuple[str, str]]) -> tuple[list[str], int]:
    """Tricks that came through, and how many were tried."""
    passed, tried = [], 0
    for method, path in all_routes:
        cases = [(name, path, {**headers, **KEYS["Bearer"]}) for name, headers in HEADERS.items()]
        if path not in PUBLIC:
            cases += [(name, path, headers) for name, headers in (HEADERS | DISGUISES).items()]
            cases += [(name, form.format(path=path), {}) for name, form in PATHS.items()]
        for name, target, headers in cases:
            answer = await _asked(port, method, target, headers)
            tried += 1
            if answer.status not in REFUSED or b'"object"' in answer.body:
                passed.append(f"{method} {path}, {name}: {answer.status}")
    return passed, tried


async def _asked(port: int, method: str, path: str, headers: dict[str, str]) -> Answer:
    body = b"{}" if method == "POST" else None
    return (await ask(port, body, path=path, method=method, headers=headers)).answer
