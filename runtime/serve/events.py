"""Server-sent events, as OpenAI's clients read them.

Enters: values, or nothing for a while. Leaves: lines of a stream; those that begin with a colon are passed over by
clients that do not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

MEDIA_TYPE = "text/event-stream; charset=utf-8"
BEAT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class EventStream:
    """What every `asking.Form` of events has in common."""

    media_type: str = MEDIA_TYPE

    def beat(self) -> bytes:
        """What says that a silent stream lives."""
        return BEAT

    def queued(self, place: int) -> bytes:
        """Which in line the request is."""
        return b": queued %d\n\n" % place


def events(values: Sequence[dict[str, Any]], *, counts: bool = False) -> bytes:
    """Server-sent events of these data; of a stream that `counts`, all have a usage, which is null until the last."""
    if counts:
        values = [{"usage": None, **value} for value in values]
    return b"".join(b"data: " + msgspec.json.encode(value) + b"\n\n" for value in values)
