"""A line for each request: counts and times, never contents.

Enters: a request's record and its status. Leaves: a line to the logger `pumice.serve.access`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from starlette.types import Scope

from pumice.serve.server import Record

_log = logging.getLogger("pumice.serve.access")


def write(scope: Scope, record: Record, status: int, form: str) -> None:
    """Log a request that has ended."""
    if not _log.isEnabledFor(logging.INFO):
        return
    fields = _fields(scope, record, status)
    if form == "json":
        _log.info("%s", msgspec.json.encode(fields).decode())
        return
    head = f"{fields['time']} {record.id} {fields['method']} {record.route} {status}"
    rest = (f"{name}={value}" for name, value in fields.items() if name not in _IN_HEAD)
    _log.info("%s", " ".join([head, *rest]))


_IN_HEAD = ("time", "id", "method", "route", "status")


def _fields(scope: Scope, record: Record, status: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "id": record.id,
        "method": "".join(c for c in scope["method"][:20] if c.isalpha()),
        "route": record.route,
        "status": status,
        "seconds": round(time.perf_counter() - record.began, 4),
        "key": record.key,
        "model": record.model,
    }
    if record.results:
        first = record.results[0]
        usage, took = first.usage, first.timings
        waited = took.time_to_first_token - took.preprocess - took.vision - took.prefill
        fields |= {
            "prompt": usage.prompt_tokens,
            "images": record.images,
            "cached": usage.cached_tokens,
            "answer": sum(result.usage.completion_tokens for result in record.results),
            "queue": round(max(0.0, waited), 4),
            "first": round(took.time_to_first_token, 4),
            "speed": round(took.tokens_per_second, 1),
            "finish": first.finish_reason,
        }
    return fields
