"""The routes, and the ASGI app that they make together.

Enters: settings. Leaves: an app for any ASGI server: its lifespan loads the bundle in the background, and closes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pumice.serve.access import Access, read_keys
from pumice.serve.chat import chat_completions
from pumice.serve.completions import completions
from pumice.serve.front import Front
from pumice.serve.local import local_routes
from pumice.serve.models import model_routes
from pumice.serve.ollama import ollama_routes
from pumice.serve.responses import responses
from pumice.serve.server import Server
from pumice.serve.settings import Settings
from pumice.serve.web_page import page_routes


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A route that says in the log which it is."""

    path: str
    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["pumice.route"] = self.path
        await self.app(scope, receive, send)


def make_app(settings: Settings) -> Front:
    """The app of a server; `app.server` has its state.

    Raises:
        UsageError: the keys cannot be read.
    """
    server = Server(settings)
    access = Access(settings, read_keys(settings))

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        server.bundles.begin()
        try:
            yield
        finally:
            await server.bundles.close(drain=False)

    return Front(
        app=Router(_routes(server), redirect_slashes=False, lifespan=lifespan), server=server, access=access
    )


def _routes(server: Server) -> Sequence[Route]:
    answering: dict[str, ASGIApp] = {
        "/chat/completions": chat_completions(server),
        "/completions": completions(server),
        "/responses": responses(server),
    }
    routes = [
        *(
            Route(prefix + path, app, methods=["POST"])
            for path, app in answering.items()
            for prefix in ("/v1", "")
        ),
        *model_routes(server),
        *local_routes(server),
        *ollama_routes(server),
        *page_routes(page=not server.settings.no_page),
    ]
    for route in routes:
        route.app = _Named(path=route.path, app=route.app)
    return routes
