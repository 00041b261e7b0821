"""Counts of the server itself; those of the engine are the engine's.

Enters: events. Leaves: numbers.
"""

from __future__ import annotations

from collections import Counter

from pumice.result import Generation


class Tally:
    """For one event loop."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.in_flight = 0
        self.image_tokens = 0
        self.image_s = 0.0
        self.finished: Counter[str] = Counter()
        """Answers, by why they ended."""

    def answered(self, results: list[Generation]) -> None:
        """Count a request's answers."""
        for result in results:
            self.finished[result.finish_reason] += 1
        if results:
            self.image_tokens += results[0].usage.image_tokens
            self.image_s += results[0].timings.vision
