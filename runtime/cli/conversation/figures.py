"""`/stats`: what answers cost.

Enters: finished answers. Leaves: lines about the last one and about all.
"""

from __future__ import annotations

from dataclasses import dataclass

from pumice.result import Generation


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts of tokens and seconds, of one answer or of several."""

    answers: int = 0
    prompt: int = 0
    of_images: int = 0
    from_cache: int = 0
    answered: int = 0
    first_token_s: float = 0.0
    decoded: int = 0
    decode_s: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        sums = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Figures(**sums)

    @property
    def lines(self) -> list[str]:
        """The figures, in words."""
        return [
            f"prompt: {self.prompt:,} tokens, {self.of_images:,} of them of images, "
            f"{self.from_cache:,} from the cache",
            f"answer{'s' * (self.answers > 1)}: {self.answered:,} tokens",
            f"first token after {self.first_token_s / max(self.answers, 1):.3f} s"
            + " on average" * (self.answers > 1),
            f"decoding: {self.decoded / self.decode_s:.1f} tokens/s"
            if self.decode_s
            else "decoding: one token",
        ]


def figures_of(answer: Generation) -> Figures:
    """One answer's; tokens after the first are decoded."""
    usage, timings = answer.usage, answer.timings
    return Figures(
        answers=1,
        prompt=usage.prompt_tokens,
        of_images=usage.image_tokens,
        from_cache=usage.cached_tokens,
        answered=usage.completion_tokens,
        first_token_s=timings.time_to_first_token,
        decoded=round(timings.tokens_per_second * timings.decode),
        decode_s=timings.decode,
    )
