"""The first and the last that a request meets: an id, who may ask, errors in the dialect's form, a line in the log.

Enters: requests. Leaves: responses, all with an id; nothing of a request's contents is written down.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pumice.errors import PumiceError
from pumice.serve.access import Access
from pumice.serve.access_log import write
from pumice.serve.receiving import swallow_body
from pumice.serve.refusals import GONE, ClientGoneError, RefusalError, refusal_of, untangle
from pumice.serve.server import Record, Server

_log = logging.getLogger("pumice.serve")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SWALLOWED = 2**30
_SWALLOWED_S = 5.0
"""What a refused client may still send, so that it reads why."""

_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True, kw_only=True)
class Front:
    """An ASGI app around all routes."""

    app: ASGIApp
    server: Server
    access: Access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises nothing."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        record = Record(id=_request_id(scope))
        scope["pumice.record"] = record
        scope["app"] = self  # so that routes raise what they do not find
        sending = _Sending(send, [*_ALWAYS, (b"x-request-id", record.id.encode()), *self.access.cors(scope)])
        self.server.tally.in_flight += 1
        try:
            await self._answer(scope, _Receiving(scope, receive), sending)
        finally:
            self.server.tally.in_flight -= 1
            record.route = _route(scope)
            self.server.tally.requests[record.route, sending.status] += 1
            write(scope, record, sending.status, self.server.settings.log_format)

    async def _answer(self, scope: Scope, receive: _Receiving, sending: _Sending) -> None:
        try:
            scope["pumice.record"].key = self.access.check(scope)
            if scope["method"] == "OPTIONS" and self.access.cors(scope):
                await sending.all(204, [], b"")
            else:
                await self.app(scope, receive, sending)
        except ClientGoneError:
            sending.status = GONE
        except asyncio.CancelledError:  # another server's way of saying the same
            sending.status = GONE
            raise
        except HTTPException as error:
            untangle(error)
            await self._refuse(scope, receive, sending, _of_routing(scope, error))
        except Exception as error:
            refusal = refusal_of(error)
            if not isinstance(error, PumiceError):
                _log.error("request %s failed", scope["pumice.record"].id, exc_info=error)
            untangle(error)
            await self._refuse(scope, receive, sending, refusal)

    async def _refuse(
        self, scope: Scope, receive: _Receiving, sending: _Sending, refusal: RefusalError
    ) -> None:
        if sending.started:
            return  # it was cut off: the client sees no end
        body = msgspec.json.encode(_form_of(scope["path"])(refusal))
        headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
        if receive.complete:
            await sending.all(refusal.status, headers, body)
            return
        await sending.all(refusal.status, [*headers, (b"connection", b"close")], body, more=True)
        await swallow_body(receive, _SWALLOWED, _SWALLOWED_S)
        await sending({"type": "http.response.body", "body": b""})


class _Receiving:
    """ASGI's `receive` that knows whether the whole body has come."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        names = {name for name, _ in scope["headers"]}
        self.complete = not names & {b"content-length", b"transfer-encoding"}

    async def __call__(self) -> Message:
        message = await self._receive()
        self.complete = self.complete or not message.get("more_body", False)
        return message


class _Sending:
    """ASGI's `send` that knows what was sent, and adds headers."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send, self._headers = send, headers
        self.started, self.status = False, 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers]}
        await self._send(message)

    async def all(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, more: bool = False
    ) -> None:
        """A whole response; with `more`, all but its end."""
        if body:
            headers = [*headers, (b"content-type", b"application/json")]
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": more})


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def _route(scope: Scope) -> str:
    """The route's own path: of paths that nobody knows there are too many."""
    return str(scope.get("pumice.route", "other"))


def _of_routing(scope: Scope, error: HTTPException) -> RefusalError:
    if error.status_code == 405:
        message = f"{scope['method'][:20]} is not allowed here"
    else:
        message = "there is no such route: POST /v1/chat/completions, GET /v1/models"
    return RefusalError(
        message, status=error.status_code, code="not_found", headers=dict(error.headers or {})
    )


def _form_of(path: str) -> Callable[[RefusalError], Any]:
    """How the dialect of a path has its errors."""
    if path.startswith("/api/"):
        return lambda refusal: {"error": str(refusal)}
    return RefusalError.body
