"""How long a model stays loaded behind a request: Ollama's `keep_alive`.

Enters: a request's field. Leaves: seconds, endless ones too; None where it does not say.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pumice.serve.refusals import RefusalError

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_of(request: object) -> float | None:
    """Of a request that may have `keep_alive`. Raises as `keep_seconds`."""
    return keep_seconds(getattr(request, "keep_alive", None))


def keep_seconds(value: Any) -> float | None:
    """Seconds of a number, or of a duration as Go writes it (`5m`, `1h30m`, `300s`); whatever is negative is for ever.

    Raises:
        RefusalError: it is neither.
    """
    if value is None or value == "":
        return None
    seconds = _seconds(value)
    if seconds is None or math.isnan(seconds):
        raise RefusalError(
            f"keep_alive is {str(value)[:40]!r}, expected seconds, or a duration such as 5m",
            param="keep_alive",
        )
    return math.inf if seconds < 0 else seconds


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    text = str(value).strip() if isinstance(value, str) and len(value) < 100 else ""
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    try:
        return sign * float(text)
    except ValueError:
        pass
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
