"""Who may ask: keys, the names by which the server may be called, and web pages of other origins.

Enters: a request's head. Leaves: the label of its key, or a refusal. Everything is looked up in what the server itself
received (`scope["path"]`), never in an address put together from `Host`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.types import Scope

from pumice.errors import UsageError
from pumice.serve.refusals import RefusalError
from pumice.serve.settings import Settings, is_loopback
from pumice.serve.web_page import page_files

PUBLIC = frozenset({"/", "/health", "/v1/health", "/health/live", "/health/ready", "/ready", *page_files()})
"""Routes that need no key: they say nothing of anybody."""

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_MOST_KEYS = 1000


def read_keys(settings: Settings) -> dict[str, bytes]:
    """SHA-256 of every key, by its label: the name before it, or its number.

    Raises:
        UsageError: the file cannot be read, or has no key in it.
    """
    lines: list[str] = []
    if settings.api_key:
        lines.append(settings.api_key)
    if settings.api_key_file is not None:
        lines += _lines(settings.api_key_file)
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) > 2:
            raise UsageError(f"key {number} has {len(words)} words, expected KEY, or NAME KEY")
        label = words[0] if len(words) == 2 else f"key{number}"
        keys[label] = hashlib.sha256(words[-1].encode()).digest()
    return keys


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"the keys in {str(path)!r} cannot be read: {reason}") from None
    plain = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not plain or len(plain) > _MOST_KEYS:
        raise UsageError(f"{str(path)!r} has {len(plain):,} keys, expected 1 to {_MOST_KEYS:,}, one a line")
    return plain


class Access:
    """The rules of one server."""

    def __init__(self, settings: Settings, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self._origins = {origin.rstrip("/").lower().encode() for origin in settings.allow_origin}
        names = ["localhost", "127.0.0.1", "[::1]", settings.host, *settings.allow_host]
        self._hosts = {name.lower().encode() for name in names}
        # Another address has a key in front of it, and any name may lead there; so has a socket of files none.
        self._checks_host = bool(settings.allow_host) or (
            settings.uds is None and settings.fd is None and is_loopback(settings.host)
        )

    def check(self, scope: Scope) -> str:
        """The label of the request's key, `-` without keys.

        Raises:
            RefusalError: another host, another origin, or no such key.
        """
        headers = _headers(scope)
        self._check_host(headers)
        self._check_origin(headers)
        asks_first = scope["method"] == "OPTIONS" and self.cors(scope)  # browsers do, without a key
        if not self._keys or scope["path"] in PUBLIC or asks_first:
            return "-"
        given = headers.get(b"authorization", [b""])[0]
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", [b""])[0]
        label = self._label(key.strip())
        if label is None:
            what = (
                "a wrong API key was given" if key else "there is no API key: send Authorization: Bearer KEY"
            )
            raise RefusalError(
                what,
                status=401,
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return label

    def cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Headers for a web page of an origin that is allowed; none for all others."""
        origin = _headers(scope).get(b"origin", [b""])[0]
        if origin.lower() not in self._origins:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-session-id"),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-max-age", b"600"),
            (b"vary", b"Origin"),
        ]

    def _label(self, key: bytes) -> str | None:
        """All keys are compared, in the same time whatever is given."""
        digest = hashlib.sha256(key).digest()
        found = None
        for label, known in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = label
        return found

    def _check_host(self, headers: Mapping[bytes, list[bytes]]) -> None:
        given = headers.get(b"host", [])
        if not self._checks_host or not given:
            return
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if match is None or match[1].lower() not in self._hosts:
            raise RefusalError(
                "this server is not known by the Host of the request: --allow-host allows it",
                status=421,
                code="unknown_host",
            )

    def _check_origin(self, headers: Mapping[bytes, list[bytes]]) -> None:
        """A web page may ask its own server only: browsers send some requests without asking."""
        given = headers.get(b"origin", [])
        if not given:
            return
        origin, host = given[0].lower(), headers.get(b"host", [b""])[0].lower()
        own = origin in (b"http://" + host, b"https://" + host)
        if len(given) > 1 or not (own or origin in self._origins):
            raise RefusalError(
                "web pages of other origins may not ask: --allow-origin allows one",
                status=403,
                code="forbidden_origin",
            )


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name, []).append(value)
    return found
