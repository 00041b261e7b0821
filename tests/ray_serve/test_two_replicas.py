"""The server in Ray Serve itself: `make ray-serve` installs it, and runs this. Elsewhere there is nothing to test.

All tests share one Ray with two replicas of pebble, each with 2 slots; the last ones kill a replica, and end all.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pumice
from pumice.ray import serve_app
from tests.ray_serve.conftest import Cluster, examples
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Answer,
    eventually,
    image_part,
    png,
    question,
    received,
    text,
)

if not (find_spec("ray") and find_spec("fastapi")):
    pytest.skip("make ray-serve installs Ray Serve, in an environment of its own", allow_module_level=True)

from openai import APITimeoutError, OpenAI, RateLimitError

SESSIONS = [f"chat-{number}" for number in range(12)]


class Client:
    """Requests over a socket to Ray's proxy."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, body: Any = None, session: str | None = None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if session is None else {"x-session-id": session}
        with contextlib.closing(connection):
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def chat(self, messages: list[Any], session: str | None = None, **fields: Any) -> Answer:
        return self.request("POST", CHAT, {"messages": messages, "temperature": 0, **fields}, session)

    def metrics(self, session: str) -> dict[str, float]:
        """Of the replica that has the session."""
        page = self.request("GET", "/metrics", session=session).body.decode()
        pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def scraped(self, session: str) -> float:
        """How often the replica of a session was asked for its metrics before."""
        return self.metrics(session).get('pumice_http_requests_total{code="200",route="/metrics"}', 0)

    def together(self, one: str, other: str) -> bool:
        """Whether two sessions have the same replica: then it counts what both ask, the last of it a moment later."""
        before = self.scraped(one)
        for _ in range(5):
            self.metrics(other)
        return self.scraped(one) - before > 3

    def half(self, session: str) -> socket.socket:
        """A request whose body does not come."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(head_of(BODY, session) + BODY[:1])
        return connection


BODY = json.dumps(question(max_tokens=3)).encode()


def head_of(body: bytes, session: str) -> bytes:
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        f"x-session-id: {session}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Client:
    return Client(cluster.port)


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> pumice.Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.mark.parametrize("replicas", [1, (1, 4), (0, 2)])
def test_ray_accepts_the_options(replicas: Any, pebble_bundle: Path) -> None:
    application = serve_app(pebble_bundle, num_replicas=replicas, num_gpus=1, device="cuda")
    assert type(application).__name__ == "Application"


def test_answers_are_the_models_own(client: Client, model: pumice.Model) -> None:
    picture = png("red")
    expected = model.generate("What is this?", picture, max_new_tokens=8).text
    content = [image_part(picture), text("What is this?")]
    answer = client.chat([{"role": "user", "content": content}], max_tokens=8)
    assert (answer.status, answer.text) == (200, expected)
    streamed = client.chat([{"role": "user", "content": content}], max_tokens=8, stream=True)
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in streamed.events[:-1]]
    assert "".join(pieces) == expected
    assert streamed.events[-1] == "[DONE]"


def test_an_id_is_sent_back_once(client: Client) -> None:
    answer = client.request("GET", "/v1/models")
    assert answer.status == 200
    assert "," not in answer.headers["x-request-id"]


def test_a_session_stays_where_it_is(client: Client) -> None:
    first, *others = SESSIONS

    def where() -> list[bool]:
        return [client.together(first, other) for other in others]

    eventually(lambda: len(set(where())) == 2)  # both replicas have some, once the proxy knows of both
    assert where() == where()
    assert client.together(first, first)


def test_a_second_turn_finds_the_first_in_the_cache(client: Client) -> None:
    for number, session in enumerate(SESSIONS[:6]):
        content = [
            text(f"{number}: look at this."),
            image_part(png(size=(40 + number, 40))),
            text("What is it?"),
        ]
        messages: list[Any] = [{"role": "user", "content": content}]
        first = client.chat(messages, session, max_tokens=8)
        messages += [first.json["choices"][0]["message"], {"role": "user", "content": "And what else?"}]
        second = client.chat(messages, session, max_tokens=8)
        cached = second.json["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= first.json["usage"]["prompt_tokens"] - 1, session


def test_the_documented_client(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    exec(examples()[1].replace("8000", str(client.port)), {})
    first, second = map(int, capsys.readouterr().out.split())
    assert second > first


def test_a_stream_comes_as_it_is_made_and_ends_with_its_client(client: Client) -> None:
    """The first piece is here while the answer is made: it is given up when its reader leaves then."""

    def cancelled() -> float:
        return client.metrics("leaver")['pumice_requests_total{outcome="cancelled"}']

    def leave() -> bool:
        before = cancelled()
        body = json.dumps(question(max_tokens=1900, ignore_eos=True, stream=True)).encode()
        with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection:
            connection.sendall(head_of(body, "leaver") + body)
            assert b'"content"' in received(connection, b'"content"')
        eventually(lambda: not client.metrics("leaver")["pumice_slots_in_use"])
        return cancelled() == before + 1

    assert any(leave() for _ in range(5)), "answers were made to their ends, for nobody"


@contextlib.contextmanager
def full(client: Client) -> Iterator[tuple[list[socket.socket], RateLimitError]]:
    """Requests without bodies, one after another, until there is no place for one more; and what that is told.

    Two replicas take 4 each, and 2 wait at the proxy; a request that waits there with them leaves after a second. Ray
    counts it for a moment yet, so that one of these may be refused, too.
    """
    openai = OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="x", max_retries=0, timeout=1)
    with contextlib.ExitStack() as stack:
        halves: list[socket.socket] = []
        refusal: list[RateLimitError] = []

        def refused() -> bool:
            try:
                openai.models.list()
            except RateLimitError as error:
                refusal.append(error)
                return True
            except APITimeoutError:
                pass
            halves.append(stack.enter_context(client.half("half")))
            return False

        eventually(refused)
        yield halves, refusal[0]


def test_a_full_deployment_says_when_to_try_again(client: Client) -> None:
    with full(client) as (halves, refusal):
        assert refusal.response.headers["retry-after"] == "5"
        for connection in halves:
            with contextlib.suppress(ConnectionError):  # of those that were refused
                connection.sendall(BODY[1:])
        heads = [received(connection, b"\r\n\r\n") for connection in halves]
        answered = [head for head in heads if head.startswith(b"HTTP/1.1 200")]
        assert len(answered) >= 4, heads  # the places of one replica
        assert all(b"retry-after: 5" in head.lower() for head in heads if head not in answered), heads
    assert client.chat([{"role": "user", "content": "Hi"}], max_tokens=3).status == 200


def test_places_of_clients_that_leave_are_free_again(client: Client) -> None:
    with full(client):
        pass
    eventually(lambda: client.request("GET", "/v1/models").status == 200)
    for session in SESSIONS:
        eventually(lambda session=session: client.metrics(session)["pumice_http_in_flight"] == 1)  # its own


def test_another_bundle_below_a_prefix(client: Client, cluster: Cluster) -> None:
    cluster.execute(examples()[2])
    models = client.request("GET", "/small/v1/models").json["data"]
    assert models[0]["aliases"] == ["small"]
    answer = client.request("POST", f"/small{CHAT}", question(max_tokens=3, model="small"))
    assert answer.status == 200
    assert client.request("GET", "/v1/models").json["data"][0]["aliases"] == [], "the first is there, too"
    cluster.execute("serve.delete('small')")
    eventually(lambda: client.request("GET", "/small/v1/models").status == 404)


def test_a_bundle_that_is_not_there_is_told_in_the_status(cluster: Cluster) -> None:
    cluster.execute(
        "try:\n"
        "    serve.run(serve_app('bundles/missing', num_cpus=0), name='broken', route_prefix='/broken')\n"
        "except RuntimeError:\n"
        "    pass\n"
        "message = serve.status().applications['broken'].deployments['pumice'].message\n"
        "serve.delete('broken')\n"
        "assert 'BundleError' in message and 'missing' in message, message\n"
    )


def test_a_replica_that_is_killed_is_not_missed(client: Client, cluster: Cluster) -> None:
    eventually(lambda: len(cluster.replicas()) == 2)
    killed, _ = cluster.replicas()
    killed.kill()
    for session in SESSIONS:
        answer = client.chat([{"role": "user", "content": "Hi"}], session, max_tokens=3)
        assert answer.status == 200, (session, answer.body)
    eventually(lambda: len({client.together(SESSIONS[0], session) for session in SESSIONS[1:]}) == 2)
