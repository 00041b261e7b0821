"""A server that says what a test wants: the page's files as they are, and answers that are written down beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pumice.serve.web_page import page_routes

USAGE = {
    "prompt_tokens": 800,
    "completion_tokens": 42,
    "total_tokens": 842,
    "prompt_tokens_details": {"cached_tokens": 512, "image_tokens": 729, "text_tokens": 71},
}
TIMINGS = {
    "queue_ms": 1240.0,
    "preprocess_ms": 60.0,
    "vision_ms": 740.0,
    "first_token_ms": 2310.0,
    "predicted_per_second": 14.21,
}


@dataclass(eq=False)
class Script:
    """What is answered next, and what was asked."""

    pieces: Sequence[str] = ("Hello.",)
    """Texts, sent as they are; those that begin with a colon as comments."""
    refusal: tuple[int, str, str] | None = None
    """Status, code and message, in place of an answer."""
    finish: str = "stop"
    status: str = "loaded"
    others: tuple[str, ...] = ()
    """More models."""
    pause: float = 0.0
    cut: bool = False
    """Whether an answer ends before it has ended."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    gone: int = 0
    """Answers that nobody waited for."""
    url: str = ""

    async def models(self, _: Request) -> Response:
        first = {"id": "llava-7b", "status": {"value": self.status}}
        others = [{"id": name, "status": {"value": "unloaded"}} for name in self.others]
        return JSONResponse({"data": [first, *others]})

    async def props(self, _: Request) -> Response:
        params = {"temperature": 0.0, "top_p": 1.0}
        return JSONResponse({"default_generation_settings": {"n_ctx": 4096, "params": params}})

    async def chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if self.status == "loading":
            return _refused(503, "loading", "Loading model")
        if self.refusal is not None:
            return _refused(*self.refusal)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        ended = False
        try:
            yield _event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for piece in self.pieces:
                if piece.startswith(": "):
                    yield f"{piece}\n\n"
                else:
                    yield _event({"choices": [{"delta": {"content": piece}}]})
                await asyncio.sleep(self.pause)
            if self.cut:
                return
            yield _event({"choices": [{"delta": {}, "finish_reason": self.finish}], "timings": TIMINGS})
            yield _event({"choices": [], "usage": USAGE, "timings": TIMINGS})
            yield "data: [DONE]\n\n"
            ended = True
        finally:
            self.gone += not ended


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _refused(status: int, code: str, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)


@contextlib.contextmanager
def scripted(port: int = 0) -> Iterator[Script]:
    """The server, on a free port."""
    script = Script()
    app = Starlette(
        routes=[
            *page_routes(page=True),
            Route("/v1/models", script.models),
            Route("/props", script.props),
            Route("/v1/chat/completions", script.chat, methods=["POST"]),
        ]
    )
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield script
        finally:
            server.should_exit = True
            thread.join(60)
