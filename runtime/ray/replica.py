"""What runs in each replica of Ray Serve: the app of `pumice serve`, and whether it is well.

Enters: settings, then requests as Ray's proxies hand them on. Leaves: answers. The bundle is loaded before the replica
counts as started, so that no request meets a server that is still loading.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pumice.errors import EngineClosedError
from pumice.ray.concurrency import Concurrency
from pumice.serve.app import make_app
from pumice.serve.front import Front
from pumice.serve.settings import Settings


class Replica:
    """What Ray Serve makes a deployment of: `serve.ingress()(Replica)`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        beside = Concurrency(slots=settings.slots).beside  # whom Ray has given a place finds one here
        self._front = make_app(dataclasses.replace(settings, max_queue=max(settings.max_queue, beside)))

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app, once its bundle is loaded; Ray calls this in the event loop that will answer.

        Raises:
            PumiceError: it cannot be loaded. Ray says so in the deployment's status.
        """
        bundles = self._front.server.bundles
        bundles.begin()
        await bundles.settled.wait()
        if bundles.failure is not None:
            raise bundles.failure
        return Mounted(front=self._front)

    async def check_health(self) -> None:
        """Ray asks this every ten seconds, and replaces a replica that has raised three times.

        A step may take long where images are large and machines small, so that nothing counts as stalled that is
        quicker than an answer may be.

        Raises:
            EngineClosedError: the engine has ended, or has made no step for longer than any answer may take.
        """
        bundles = self._front.server.bundles
        if bundles.ended:
            raise EngineClosedError("the engine has ended")
        for loaded in bundles.loaded:
            if (stalled := loaded.engine.stalled_s) > self._settings.deadline:
                raise EngineClosedError(f"the engine of {loaded.name} has made no step for {stalled:.0f} s")


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """The app below the prefix of its application, which Ray leaves in the path."""

    front: Front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or end with the replica."""
        if scope["type"] == "lifespan":
            await self._last(receive, send)
            return
        prefix, path = scope.get("root_path", ""), scope["path"]
        if prefix and path.startswith(prefix):
            scope = {**scope, "root_path": "", "path": path[len(prefix) :] or "/"}
        await self.front(scope, receive, _without_id(send))

    async def _last(self, receive: Receive, send: Send) -> None:
        """What is loaded already is closed at the end."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.front.server.bundles.close(drain=False)
        await send({"type": "lifespan.shutdown.complete"})


def _without_id(send: Send) -> Send:
    """Ray's proxy adds the request's id itself, the same."""

    async def without(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [each for each in message["headers"] if each[0].lower() != b"x-request-id"]
            message = {**message, "headers": headers}
        await send(message)

    return without
