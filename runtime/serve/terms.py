"""Refusals in the words of a route's own request: what a chat calls `messages` has another name elsewhere.

Enters: refusals of a chat's fields. Leaves: the same, of the fields that the client sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from starlette.types import ASGIApp, Receive, Scope, Send

from pumice.errors import PumiceError
from pumice.serve.asking import Early, early_events
from pumice.serve.refusals import RefusalError, refusal_of


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A dialect's names, by a chat's: of fields, and of the beginnings of their places, the longest first."""

    names: Mapping[str, str]

    def of(self, refusal: RefusalError) -> RefusalError:
        """The refusal with its place, and its message where that begins with it, in the dialect's words."""
        if refusal.param is None:
            return refusal
        place = self._renamed(refusal.param)
        message = str(refusal)
        if message.startswith(refusal.param):
            message = place + message[len(refusal.param) :]
        return RefusalError(
            message,
            status=refusal.status,
            type=refusal.type,
            param=place,
            code=refusal.code,
            headers=refusal.headers,
        )

    def early(self, name: str) -> Early:
        """What a stream is written by whose model is not there yet."""
        early = early_events(name)
        return replace(early, told=lambda refusal: early.told(self.of(refusal)))

    def _renamed(self, place: str) -> str:
        for name, own in self.names.items():
            if re.match(re.escape(name) + r"(?![A-Za-z0-9_])", place):
                return own + place[len(name) :]
        return place


@dataclass(frozen=True, kw_only=True)
class InTerms:
    """A route whose refusals are told in its terms."""

    app: ASGIApp
    terms: Terms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises as the route does."""
        try:
            await self.app(scope, receive, send)
        except PumiceError as error:
            raise self.terms.of(refusal_of(error)) from None
