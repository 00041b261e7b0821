"""Ollama's dialect: `/api/chat`, `/api/generate`, and what its clients ask of models.

Enters: Ollama's requests. Leaves: its answers, a JSON object a line unless it is told otherwise. There is nothing to
pull, create or delete here, and no model is unloaded.
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
from pumice.serve.asking import Asking
from pumice.serve.bundles import Loaded
from pumice.serve.ollama_request import read_chat, read_generate, wants_nothing
from pumice.serve.questions import Question
from pumice.serve.receiving import declared_bytes, read_body
from pumice.serve.refusals import RefusalError
from pumice.serve.server import Server
from pumice.serve.wire import ChatRequest, read_json

_NEVER = "2318-01-01T00:00:00Z"
"""When a model is unloaded that never is: Ollama's own for keep_alive −1."""
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
        return JSONResponse({"models": [_model(each) for each in server.bundles.loaded]})

    async def running(_: Request) -> JSONResponse:
        models = [
            _model(each) | {"expires_at": _NEVER, "size_vram": 0, "context_length": each.context}
            for each in server.bundles.loaded
        ]
        return JSONResponse({"models": models})

    async def show(request: Request) -> JSONResponse:
        given = read_json(await read_body(request.receive, declared_bytes(request.scope, 65_536)))
        name = given.get("model", given.get("name"))
        return JSONResponse(_shown(server.bundles.find(name if isinstance(name, str) else None)))

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

        return cls(server=server, field=field, asking=Asking(server=server, read=read, form=form))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        most = self.server.settings.max_body
        if declared_bytes(scope, most) > 4096:
            await self.asking(scope, receive, send)
            return
        body = await read_body(receive, most)
        name = wants_nothing(body)
        if name is None:
            await self.asking(scope, _again(body, receive), send)
            return
        loaded = self.server.bundles.find(name or None)
        answer = _line(self.field, loaded, "") | {"done": True, "done_reason": "load"}
        await JSONResponse(answer)(scope, receive, send)


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
    media_type: str = "application/x-ndjson"

    def first(self, count: int) -> bytes:  # noqa: ARG002  there is one
        return b""

    def beat(self) -> bytes:
        return _ended(_line(self.field, self.loaded, "") | {"done": False})

    def queued(self, place: int) -> bytes:  # noqa: ARG002  there is no word for it
        return b""

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        return b"".join(
            _ended(_line(self.field, self.loaded, piece.text) | {"done": False})
            for piece in pieces
            if piece.text
        )

    def last(self, results: Sequence[Generation]) -> bytes:
        return _ended(_line(self.field, self.loaded, "") | self._end(results[0]))

    def told(self, refusal: RefusalError) -> bytes:
        return _ended({"error": str(refusal)})

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        return _line(self.field, self.loaded, results[0].text) | self._end(results[0])

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


def _line(field: str, loaded: Loaded, text: str) -> dict[str, Any]:
    value: Any = {"role": "assistant", "content": text} if field == "message" else text
    return {"model": f"{loaded.name}:latest", "created_at": _iso(time.time()), field: value}


def _ended(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _model(loaded: Loaded) -> dict[str, Any]:
    name = f"{loaded.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": _iso(loaded.created),
        "size": loaded.size,
        "digest": loaded.digest,
        "details": _details(loaded),
    }


def _details(loaded: Loaded) -> dict[str, Any]:
    source = loaded.model.manifest.source
    return {
        "parent_model": "",
        "format": "onnx",
        "family": source.text_model_type,
        "families": [source.text_model_type, source.vision_model_type],
        "parameter_size": "",
        "quantization_level": loaded.model.manifest.precision.name,
    }


def _shown(loaded: Loaded) -> dict[str, Any]:
    decoder, source = loaded.model.manifest.decoder, loaded.model.manifest.source
    architecture = source.text_model_type
    return {
        "modelfile": "",
        "parameters": "",
        "template": loaded.template,
        "details": _details(loaded),
        "model_info": {
            "general.architecture": architecture,
            "general.basename": loaded.name,
            f"{architecture}.context_length": loaded.context,
            f"{architecture}.embedding_length": decoder.hidden_size,
            f"{architecture}.block_count": decoder.layers,
        },
        "capabilities": ["completion", "vision"],
        "modified_at": _iso(loaded.created),
    }
