"""Requests that all come at one moment: 1, 4 and 8 of them, each with an image of its own and the same question.

No image comes twice, as a system may keep what it has read of one.

Enters: images, and a way to serve some of them. Leaves: for each number of requests,

    throughput_N                        tokens of all answers over the seconds until the last one is there
    burst_ttft_p50_N, burst_ttft_p95_N  seconds until half of the requests, and 95% of them, have their first token
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LEVELS = (1, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Served:
    """Seconds since the requests came: to each one's first token, and to the end of all; and their `tokens` in all."""

    firsts: Sequence[float]
    seconds: float
    tokens: int


def bursts(
    serve: Callable[[Sequence[str]], Served], images: Sequence[str], missing: dict[str, str]
) -> dict[str, float]:
    """All measures; what fails says why in `missing`."""
    found: dict[str, float] = {}
    taken = 0
    try:
        for level in LEVELS:
            found |= measures(level, serve(images[taken : taken + level]))
            taken += level
    except Exception as error:
        missing["throughput"] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def measures(level: int, served: Served) -> dict[str, Any]:
    """Of one number of requests."""
    if len(served.firsts) != level:
        raise ValueError(f"{len(served.firsts)} of {level} requests had a first token")
    return {
        f"throughput_{level}": served.tokens / served.seconds,
        f"burst_ttft_p50_{level}": percentile(served.firsts, 0.5),
        f"burst_ttft_p95_{level}": percentile(served.firsts, 0.95),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that so large a share does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
