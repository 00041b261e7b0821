"""Ollama's dialect: `/api/chat`, `/api/generate`, and what its clients ask of models.

Enters: Ollama's requests. Leaves: its answers, a JSON object a line unless it is told otherwise. There is nothing to
pull, create or delete here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.asking import Asking, Early
from pumice.serve.catalogue import About
from pumice.serve.loaded import Loaded
from pumice.serve.ollama_request import Wish, read_chat, read_generate, wish_of
from pumice.serve.questions import Question
from pumice.serve.receiving import declared_bytes, read_body, unless_gone
from pumice.serve.refusals import RefusalError
from pumice.serve.server import Server
from pumice.serve.tenant import Tenant
from pumice.serve.wire import ChatRequest, read_json

_NEVER = "2318-01-01T00:00:00Z"
"""When a model is unloaded that never is: Ollama's own for keep_alive −1."""
_MEDIA_TYPE = "application/x-ndjson"
_WRITING = (
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/embed",
    "/api/embeddings",
)


def ollama_routes(server: Server) -> list[Route]:
    """The routes."""

    async def version(_: Request) -> JSONResponse:
        import pumice

        return JSONResponse({"version": pumice.__version__})

    async def tags(_: Request) -> JSONResponse:
        known = [tenant.about for tenant in server.bundles.tenants if tenant.about is not None]
        return JSONResponse({"models": [_model(each) for each in known]})

    async def running(_: Request) -> JSONResponse:
        return JSONResponse({"models": [_running(each) for each in server.bundles.tenants if each.loaded]})

    async def show(request: Request) -> JSONResponse:
        given = read_json(await read_body(request.receive, declared_bytes(request.scope, 65_536)))
        name = given.get("model", given.get("name"))
        return JSONResponse(_shown(server.bundles.about(name if isinstance(name, str) else None)))

    async def refused(request: Request) -> Response:
        raise RefusalError(
            f"{request.url.path} is not supported: bundles are made by pumice export, and served by pumice serve",
            status=501,
            code="not_supported",
        )

    return [
        Route("/api/version", version, methods=["GET"]),
        Route("/api/tags", tags, methods=["GET"]),
        Route("/api/ps", running, methods=["GET"]),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/chat", _Asked.of(server, "message", read_chat), methods=["POST"]),
        Route("/api/generate", _Asked.of(server, "response", read_generate), methods=["POST"]),
        *(Route(path, refused, methods=["POST", "DELETE"]) for path in _WRITING),
    ]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A route that answers; a request without a question only asks whether the model is loaded."""

    server: Server
    field: str
    asking: ASGIApp

    @classmethod
    def of(cls, server: Server, field: str, read: Callable[[bytes], ChatRequest]) -> _Asked:
        """Whose answers stand in `field`: `message`, or `response`."""

        def form(_: ChatRequest, loaded: Loaded, __: Question) -> _Lines:
            return _Lines(field=field, loaded=loaded, began=time.perf_counter())

        def early(name: str) -> Early:
            return Early(
                media_type=_MEDIA_TYPE,
                beat=lambda: _ended(_line(field, name, "") | {"done": False}),
                told=lambda refusal: _ended({"error": str(refusal)}),
            )

        return cls(
            server=server, field=field, asking=Asking(server=server, read=read, form=form, early=early)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        most = self.server.settings.max_body
        if declared_bytes(scope, most) > 4096:
            await self.asking(scope, receive, send)
            return
        body = await read_body(receive, most)
        wish = wish_of(body)
        if wish is None:
            await self.asking(scope, _again(body, receive), send)
            return
        name, reason = await self._fulfil(wish, receive)
        answer = _line(self.field, name, "") | {"done": True, "done_reason": reason}
        await JSONResponse(answer)(scope, receive, send)

    async def _fulfil(self, wish: Wish, receive: Receive) -> tuple[str, str]:
        """Have a model loaded, or unloaded; its name, and which it was."""
        server = self.server
        server.check_open()
        if wish.keep == 0 and server.bundles.keeps:
            tenant = server.bundles.tenant(wish.model or None)
            if tenant.status != "unloaded":
                server.bundles.dismiss(wish.model or None)
            return tenant.name, "unload"
        with server.bundles.lease(wish.model or None, wish.keep) as lease:
            await unless_gone(receive, lease.loaded(server.settings.deadline))
            return lease.name, "load"


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` that begins with a body which was read already."""
    bodies = [body]

    async def again() -> Any:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return again


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """See `asking.Form`."""

    field: str
    loaded: Loaded
    began: float
    media_type: str = _MEDIA_TYPE

    def first(self, count: int) -> bytes:  # noqa: ARG002  there is one
        return b""

    def beat(self) -> bytes:
        return _ended(_line(self.field, self.loaded.name, "") | {"done": False})

    def queued(self, place: int) -> bytes:  # noqa: ARG002  there is no word for it
        return b""

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        return b"".join(
            _ended(_line(self.field, self.loaded.name, piece.text) | {"done": False})
            for piece in pieces
            if piece.text
        )

    def last(self, results: Sequence[Generation]) -> bytes:
        return _ended(_line(self.field, self.loaded.name, "") | self._end(results[0]))

    def told(self, refusal: RefusalError) -> bytes:
        return _ended({"error": str(refusal)})

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        return _line(self.field, self.loaded.name, results[0].text) | self._end(results[0])

    def _end(self, result: Generation) -> dict[str, Any]:
        """Times in nanoseconds."""
        usage, took = result.usage, result.timings
        return {
            "done": True,
            "done_reason": result.finish_reason,
            "total_duration": _ns(time.perf_counter() - self.began),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(took.vision + took.prefill),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(took.decode),
        }


def _line(field: str, name: str, text: str) -> dict[str, Any]:
    value: Any = {"role": "assistant", "content": text} if field == "message" else text
    return {"model": f"{name}:latest", "created_at": _iso(time.time()), field: value}


def _ended(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _running(tenant: Tenant) -> dict[str, Any]:
    """With the memory that it may take, and until when it stays."""
    loaded, expires_at = tenant.loaded, tenant.expires_at
    assert loaded is not None
    return _model(loaded.about) | {
        "size": loaded.nbytes,
        "size_vram": 0,
        "expires_at": _NEVER if expires_at is None else _iso(expires_at),
        "context_length": loaded.context,
    }


def _model(about: About) -> dict[str, Any]:
    name = f"{about.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": _iso(about.created),
        "size": about.size,
        "digest": about.digest,
        "details": _details(about),
    }


def _details(about: About) -> dict[str, Any]:
    source = about.manifest.source
    return {
        "parent_model": "",
        "format": "onnx",
        "family": source.text_model_type,
        "families": [source.text_model_type, source.vision_model_type],
        "parameter_size": "",
        "quantization_level": about.manifest.precision.name,
    }


def _shown(about: About) -> dict[str, Any]:
    decoder, source = about.manifest.decoder, about.manifest.source
    architecture = source.text_model_type
    return {
        "modelfile": "",
        "parameters": "",
        "template": about.template,
        "details": _details(about),
        "model_info": {
            "general.architecture": architecture,
            "general.basename": about.name,
            f"{architecture}.context_length": about.context,
            f"{architecture}.embedding_length": decoder.hidden_size,
            f"{architecture}.block_count": decoder.layers,
        },
        "capabilities": ["completion", "vision"],
        "modified_at": _iso(about.created),
    }
