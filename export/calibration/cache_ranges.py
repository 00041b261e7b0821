"""How large keys and values become, channel by channel, for a cache that keeps them in 8 bits.

Enters: keys and values of a layer as the cache would have them, [B, kv_heads, T, K]. Leaves: the largest magnitude of
every channel, and the steps that a range is cut into.

Positions turn keys: channel i of a head's first half and channel i of its second trade places, and as far as a turning
reaches neither exceeds √(first² + second²), which no position changes. So both have the range of that amplitude, and
positions that no calibration has seen stay within it. Values, and keys that nothing turns, have each channel's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEY_HEADROOM, VALUE_HEADROOM = 1.5, 2.0
"""Times the largest that was seen, for tokens that were not: measured in docs/decisions/kv-cache-type.md."""
_MOST = 127
_SMALLEST = 1e-6
"""Of a layer's largest range: a channel that has less, such as one that pads its head, needs a step too."""


@dataclass(frozen=True, kw_only=True)
class CacheRanges:
    """The largest magnitudes of a layer's keys and values, float32 [kv_heads, K]."""

    keys: Tensor
    values: Tensor

    def joined(self, other: CacheRanges) -> CacheRanges:
        """Of both."""
        return CacheRanges(
            keys=torch.maximum(self.keys, other.keys), values=torch.maximum(self.values, other.values)
        )


def ranges_of(keys: Tensor, values: Tensor, turned: Tensor | None) -> CacheRanges:
    """Of keys and values [B, kv_heads, T, K]; of pairs that are `turned`, bool [K / 2] or None for none."""
    sizes = keys.abs()
    if turned is not None:
        amplitudes = torch.hypot(*keys.chunk(2, dim=-1))
        sizes = torch.where(turned.repeat(2), amplitudes.repeat(1, 1, 1, 2), sizes)
    return CacheRanges(keys=sizes.amax((0, 2)), values=values.abs().amax((0, 2)))


def steps_of(ranges: CacheRanges) -> tuple[Tensor, Tensor]:
    """What an integer counts of keys and of values, float32 [1, kv_heads, 1, K]."""
    return _steps(ranges.keys, KEY_HEADROOM), _steps(ranges.values, VALUE_HEADROOM)


def _steps(ranges: Tensor, headroom: float) -> Tensor:
    """Of ranges [kv_heads, K].

    In bfloat16's numbers, so that sums in another order, by more threads, end in the same steps.
    """
    least = max(float(ranges.max()) * _SMALLEST, torch.finfo(torch.float32).tiny)
    steps = ranges.clamp(min=least) * (headroom / _MOST)
    return steps.bfloat16().float()[None, :, None, :]
