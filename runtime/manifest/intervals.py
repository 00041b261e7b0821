"""Where the numbers among a checkpoint's defaults may lie, and how many things lists may hold.

Enters: a number. Leaves: whether it is in its interval, and the interval in words, for messages. Callers' options are
held to the same intervals: `pumice.generation.option_table` takes them from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`, both included; `above`: without `low` itself. `note` stands behind it in messages."""

    low: int | float
    high: int | float
    above: bool = False
    note: str = ""

    def __contains__(self, number: int | float) -> bool:
        return self.low <= number <= self.high and not (self.above and number == self.low)  # False for NaN

    def __str__(self) -> str:
        return f"{'above ' if self.above else ''}{self.low} to {self.high}{self.note}"


INTERVALS = {
    "temperature": Interval(low=0, high=100),
    "top_k": Interval(low=0, high=1_000_000),
    "top_p": Interval(low=0, high=1),
    "min_p": Interval(low=0, high=1),
    "typical_p": Interval(low=0, high=1, above=True),
    "repetition_penalty": Interval(low=0.01, high=100),
    "no_repeat_ngram_size": Interval(low=0, high=1_000),
    "num_beams": Interval(low=1, high=64),
    "length_penalty": Interval(low=-5, high=5),  # a length to this power is still a float32
}
"""Of the defaults in a manifest; `max_new_tokens` and `min_new_tokens` end at the model's context."""

MOST_BAD_WORDS = 10_000
LONGEST_BAD_WORD = 64
"""Tokens."""
MOST_STOP_STRINGS = 64
LONGEST_STOP_STRING = 1_000
"""Characters."""
LONGEST_CONSTRAINT = 1_000_000
"""Characters of a schema or of a regular expression."""
