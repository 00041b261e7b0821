"""A server from its first moment to its last: it listens, loads, answers, and at SIGTERM drains.

Enters: settings. Leaves: nothing, once all is answered; or an error that says why it could not begin.

    listening ─▶ loading ─▶ ready ──SIGTERM──▶ draining: what came is answered, what comes is refused ─▶ ended
    /health 503             200                /ready 503                     a second SIGTERM, or --drain: at once
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from socket import socket

import uvicorn

from pumice.serve.app import make_app
from pumice.serve.front import Front
from pumice.serve.server import Server
from pumice.serve.settings import Settings
from pumice.serve.sockets import address_of, listening, notify

_log = logging.getLogger("pumice.serve")

_LAST_WORDS_S = 2.0
"""For responses that were cut off to say so."""


def serve(settings: Settings, *, announced: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; `announced` gets the address once the socket listens.

    Raises:
        UsageError: keys or socket cannot be had.
        PumiceError: the bundle cannot be loaded.
    """
    app = make_app(settings)
    with listening(settings) as listener:
        if announced is not None:
            announced(address_of(listener))
        asyncio.run(run(app, listener, Ending(app.server)))


class _Uvicorn(uvicorn.Server):
    """One that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield


async def run(app: Front, listener: socket, ending: Ending, *, signals: bool = True) -> None:
    """Serve on a socket until `ending` is asked for, by signals or by others. Raises as `serve`."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        loop="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(_LAST_WORDS_S),
        timeout_keep_alive=75,
    )
    web = _Uvicorn(config)
    with ending.on_signals() if signals else contextlib.nullcontext():
        serving = asyncio.create_task(web.serve(sockets=[listener]))
        try:
            await _until_asked(app.server, ending, serving)
            await ending.drain()
        finally:
            notify("STOPPING=1")
            await app.server.bundles.close(drain=False)
            web.should_exit = True
            await serving
    failure = app.server.bundles.failure
    if failure is not None:
        raise failure


async def _until_asked(server: Server, ending: Ending, serving: asyncio.Task[None]) -> None:
    """Load, tell that it is loaded, and wait for the end."""
    asked = asyncio.create_task(ending.asked.wait())
    settled = asyncio.create_task(server.bundles.settled.wait())
    try:
        await asyncio.wait({asked, settled, serving}, return_when=asyncio.FIRST_COMPLETED)
        if settled.done() and server.bundles.failure is None:
            notify("READY=1\nSTATUS=ready")
            await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        settled.cancel()


class Ending:
    """How a server ends: asked once, it drains; asked twice, it ends at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.asked, self.insisted = asyncio.Event(), asyncio.Event()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def ask(self) -> None:
        """End."""
        if self.asked.is_set():
            self.insisted.set()
        self.asked.set()
        self._server.draining = True

    async def drain(self) -> None:
        """Wait until what came is answered, for as long as it may take."""
        server = self._server
        server.draining = True
        if server.admission.taken:
            _log.info("draining: %d requests are under way", server.admission.taken)
            notify(f"STOPPING=1\nSTATUS=draining {server.admission.taken} requests")
        ended = asyncio.create_task(server.admission.empty())
        insisted = asyncio.create_task(self.insisted.wait())
        await asyncio.wait(
            {ended, insisted}, timeout=server.settings.drain, return_when=asyncio.FIRST_COMPLETED
        )
        ended.cancel()
        insisted.cancel()
        if server.admission.taken:
            _log.warning("%d requests are cut off", server.admission.taken)
