"""The page at `/`: files of `page/`, as they are. It is a client like others, and asks `/v1` and `/props` alone.

Enters: requests of browsers. Leaves: the page's files, which say what they may load and whom they may ask: this server.
Nothing in them is anybody's, so that they need no key; what the page asks for does.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".streaming-markdown": "text/plain; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: whatever a model or a file's name says, nothing of it runs, loads or sends."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for anew each time, and answered by 304
    "Vary": "Accept",
}


@dataclass(frozen=True, kw_only=True)
class _File:
    body: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self.etag}
        if self.etag in re.findall(r'"[^"]*"', request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


@cache
def page_files() -> dict[str, Path]:
    """Files by the paths that they are served at; `/` is index.html."""
    files = sorted(path for path in FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES)
    return {f"/page/{path.relative_to(FOLDER).as_posix()}": path for path in files if path.suffix != ".html"}


def page_routes(*, page: bool) -> list[Route]:
    """The routes; without a page, what programs that speak to Ollama look for, and nothing else."""
    index = _read(FOLDER / "index.html") if page else None

    async def root(request: Request) -> Response:
        if index is None or "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse("Ollama is running", headers={"Vary": "Accept"})
        return index.answer(request)

    def of(file: _File) -> Any:
        async def answer(request: Request) -> Response:
            return file.answer(request)

        return answer

    files = page_files() if page else {}
    return [
        Route("/", root, methods=["GET"]),
        *(Route(path, of(_read(file)), methods=["GET"]) for path, file in files.items()),
    ]


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(
        body=body,
        media_type=_MEDIA_TYPES[path.suffix],
        etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    )
