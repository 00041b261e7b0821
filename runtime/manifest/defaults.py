"""Defaults of generation that come with a checkpoint: the manifest's field `generation`.

Enters: what a `generation_config.json` says. Leaves: a checked `GenerationDefaults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from pumice.manifest.intervals import (
    INTERVALS,
    LONGEST_BAD_WORD,
    LONGEST_STOP_STRING,
    MOST_BAD_WORDS,
    MOST_STOP_STRINGS,
)

Positive = Annotated[int, msgspec.Meta(gt=0)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
BadWord = Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1, max_length=LONGEST_BAD_WORD)]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_STOP_STRING)]


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Defaults of `generate`, by transformers' names, as the checkpoint's `generation_config.json` has them.

    None where it says nothing: pumice's own then apply (`pumice.generation.options`).

    Raises:
        ValueError: a number outside its interval, when made.
    """

    max_new_tokens: Positive | None = None
    min_new_tokens: NonNegative | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: Annotated[tuple[BadWord, ...], msgspec.Meta(max_length=MOST_BAD_WORDS)] | None = None
    stop_strings: Annotated[tuple[StopString, ...], msgspec.Meta(max_length=MOST_STOP_STRINGS)] | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            interval = INTERVALS.get(name)
            if interval is not None and value not in interval:
                raise ValueError(f"expected {interval} for {name}, got {value!r}")

    def given(self) -> dict[str, Any]:
        """Those that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}
