"""A server in a thread of the tests' own process, over a real socket; and requests to it, as bytes if need be."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pumice.serve import lifecycle
from pumice.serve.app import make_app
from pumice.serve.front import Front
from pumice.serve.loaded import Loaded
from pumice.serve.settings import Settings
from pumice.serve.sockets import listening
from tests.runtime.engine.stand_ins import Gate

PATIENCE = 300.0
"""Seconds after which a test gives up; nothing takes nearly as long, however busy the machine is."""

CHAT = "/v1/chat/completions"


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


@dataclass(eq=False)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's, with all four fields."""
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def text(self) -> str:
        content: str = self.json["choices"][0]["message"]["content"]
        return content

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events; `[DONE]` as text."""
        lines = [line for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@dataclass(eq=False)
class Running:
    """A server that runs."""

    app: Front
    port: int
    ending: lifecycle.Ending
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    failure: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def loaded(self) -> Loaded:
        return self.app.server.bundles.loaded[0]

    def ask_to_end(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self.ending.ask)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """A request, and its whole response."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, headers)

    def chat(self, content: Any = "What is this?", **fields: Any) -> Answer:
        """A question to the chat, greedily."""
        return self.post(CHAT, question(content, **fields))

    def idle(self) -> bool:
        """Whether nobody is served, and all slots are free."""
        counters = self.loaded.engine.counters
        return not self.app.server.admission.taken and not (
            counters.queued or counters.running or counters.slots_in_use
        )


def received(connection: socket.socket, until: bytes) -> bytes:
    """What comes, up to these bytes and what came with them; or to the end."""
    data = b""
    while until not in data and (piece := connection.recv(65_536)):
        data += piece
    return data


def question(content: Any = "What is this?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def png(color: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def image_part(image: bytes, kind: str = "png", **extra: Any) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "image_url", "image_url": {"url": data_uri(image, kind), **extra}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@contextlib.contextmanager
def running(
    bundle: Path, *, ready: bool = True, gate: Gate | None = None, **settings: Any
) -> Iterator[Running]:
    """A server of a bundle on a free port; ended, and drained, at the end. Nothing waits at `gate` then."""
    chosen = Settings(bundle=bundle, port=0, **{"threads": 1, "slots": 4, **settings})
    app = make_app_of(chosen)
    with listening(chosen) as listener:
        server = begin(app, listener)
        try:
            if ready:
                eventually(app.server.bundles.settled.is_set)
                assert app.server.bundles.failure is None
            yield server
        finally:
            if gate is not None:
                gate.open()
            server.ask_to_end()
            server.thread.join(PATIENCE)
            assert not server.thread.is_alive()


def make_app_of(settings: Settings) -> Front:
    return make_app(settings)


def begin(app: Front, listener: socket.socket) -> Running:
    """Run it in a thread; returns once its loop runs."""
    there = threading.Event()
    found: list[Any] = []
    failure: list[BaseException] = []

    async def main() -> None:
        ending = lifecycle.Ending(app.server)
        found.extend([ending, asyncio.get_running_loop()])
        there.set()
        await lifecycle.run(app, listener, ending, signals=False)

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
        finally:
            there.set()

    thread = threading.Thread(target=work, name="server", daemon=True)
    thread.start()
    assert there.wait(PATIENCE)
    name = listener.getsockname()
    port = name[1] if isinstance(name, tuple) else 0
    return Running(app=app, port=port, ending=found[0], loop=found[1], thread=thread, failure=failure)
